"""Every figure that a page asks for by name, and which figures on a page nobody asked for.

A page has a table between `<!-- name -->` and `<!-- /name -->`, each on a line of its own, and a figure in a sentence
between `<!-- name -->` and `<!-- / -->`. Tables of a benchmark that writes its own page are in that benchmark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from common import evidence, full_size, guide, landing, machines, preset_tables, rival_tables, simulators
from common.results import ROOT, write_between
from common.typed import TYPED

FIGURES: dict[str, Callable[[], str]] = {
    name: figure
    for module in (evidence, full_size, guide, landing, machines, preset_tables, rival_tables, simulators)
    for name, figure in module.FIGURES.items()
}
"""Name → what it shows."""
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "api.md"),
    ROOT / "src" / "vlapack" / "assets" / "tiny-libero" / "README.md",
]
"""api.md is made from docstrings, benchmarks/results/README.md by its benchmarks."""

MARKED = re.compile(r"<!-- (?P<name>[^/>][^>]*?) -->(?:\n.*?<!-- /(?P=name) -->|(?!\n).*?<!-- / -->)", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)\s]*\)", re.DOTALL)
UNIT = (
    r"(?:%|[GMKk]B/s|[GMKk]i?B|ms|µs|s|seconds?|minutes?|hours?|points?|mm|G?OP/s|GFLOP/s|times|×(?! ?\d)"
    r"|episodes|pairs)"
)
FIGURE = re.compile(rf"(?<![\w.])\d[\d,.]*(?:(?: ?[-–] ?| to | and )\d[\d,.]*)* ?{UNIT}(?!\w)")
"""A number with a unit: what a reader takes for measured."""


def fill(page: Path) -> None:
    """Write every figure that a page asks for.

    Raises:
        KeyError: it asks in a sentence for one that nobody has.
    """
    for found in MARKED.finditer(page.read_text(encoding="utf-8")):
        name = found["name"]
        if name in FIGURES:
            write_between(page, name, FIGURES[name]())
        elif found[0].endswith("<!-- / -->"):
            raise KeyError(f"{page}: no figure is called {name!r}")


def called(page: Path) -> str:
    """Return a page's name in `TYPED`; tiny-libero's card is not the only README."""
    return "card" if page.parent.name == "tiny-libero" else page.name


def by_hand(page: Path) -> Iterator[str]:
    """Yield the figures that somebody typed into a page, and that `TYPED` does not explain."""
    text = MARKED.sub("", page.read_text(encoding="utf-8"))
    explained = {phrase for phrases in TYPED.values() for name, phrase in phrases if name == called(page)}
    for found in FIGURE.finditer(CODE.sub("", text)):
        if found[0] not in explained:
            yield found[0]
