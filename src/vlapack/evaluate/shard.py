"""A part of a plan that one machine plays by itself, such as one task of a Slurm array."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlapack.errors import InputError
from vlapack.evaluate.plan import Case

SHARD = "shard"
"""The key in a shard's `plan.json` that names it; all others are the whole plan's."""

FOLDER = "shards"
"""In an output folder: a folder for each shard."""


@dataclass(frozen=True, order=True)
class Shard:
    """Number `index` of `count` parts, from 1.

    All policies play a shard's cases, so that every pair is played on one machine. Its cases follow one another in the
    plan: they belong to few tasks, and few scenes have to be built.
    """

    index: int
    count: int

    def of(self, cases: Sequence[Case]) -> list[Case]:
        """Return the part's cases; parts differ by one case at most."""
        return [cases[place] for place in self.places(len(cases))]

    def places(self, cases: int) -> range:
        """Return the places in the plan of the part's cases, of so many."""
        return range((self.index - 1) * cases // self.count, self.index * cases // self.count)

    def folder(self, out: Path) -> Path:
        """Return where the shard is kept in the evaluation's output folder."""
        return out / FOLDER / f"{self.index}-of-{self.count}"

    def __str__(self) -> str:
        """Spell it as it is given."""
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Parse "3/8".

    Raises:
        InputError: it is no such fraction, or not one of 1 to n.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"`shard={text!r}` is not a part such as 3/8: they are counted from 1 to the number after /")
    return Shard(int(found[1]), int(found[2]))
