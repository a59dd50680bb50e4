"""What a section of the page is made of.

A section whose data is missing says in one line which command provides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vlapack.drawing.figure import Drawing


@dataclass(frozen=True)
class Table:
    """Numbers as text; the first cell of a row names it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Block:
    """One chart of a section.

    Attributes:
        heading: what it is about, where a section has several; empty: nothing.
        says: what the chart shows, in a sentence or two; read aloud in its place.
        command: what to type, to be copied as it is.
        opened: whether the table is read with the chart, and not only on demand.
    """

    heading: str
    says: str
    drawing: Drawing | None = None
    table: Table | None = None
    command: str | None = None
    opened: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it.

    Attributes:
        missing: the sentence in the place of data that was not given.
        short: what it comes to, for the top of the page.
    """

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    missing: str | None = None
    short: str | None = None

    @classmethod
    def of(cls, name: str, title: str, blocks: Sequence[Block], missing: str, short: str | None = None) -> Section:
        """Make a section of the blocks that there are; of none, `missing` takes their place."""
        return cls(name, title, tuple(blocks), None if blocks else f"{missing[0].upper()}{missing[1:]}.", short)
