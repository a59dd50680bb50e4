"""Fill the pages with the figures of `benchmarks/results`, without measuring anything. Run by `make docs`.

    python scripts/fill_docs.py            # write
    python scripts/fill_docs.py --check    # leave the pages as they are, and say which differ

A page marks where a table or a figure belongs (`benchmarks/common/figures.py` says how). What no result can say is
listed in `benchmarks/common/typed.py` with the reason. `tests/benchmarks` checks the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import closed_loop
import closed_loop_large
import distill
import fidelity
import frontier_minilm
import guided
import kills
import large_plan
import presets
import rounding
import spectra
import threads
import tuning
from common import figures, realtime_curve, short_tables
from gate import table as gate_table
from gpu import table as gpu_table

from vlapack.console import say

BENCHMARKS = (
    closed_loop,
    closed_loop_large,
    distill,
    fidelity,
    frontier_minilm,
    guided,
    kills,
    large_plan,
    presets,
    realtime_curve,
    rounding,
    short_tables,
    spectra,
    threads,
    tuning,
    gate_table,
    gpu_table,
)
"""Each has the page that it writes to, `DOCS`, and `write_tables`."""

DRAWN = (frontier_minilm, realtime_curve)
"""Those that also draw a `PICTURE`, by `write_picture`."""


def main(check: bool = False) -> int:
    """Write the pages.

    Args:
        check: Write nothing; exit code 1 if a page differs from the results, or has a figure that nobody can trace.
    """
    pages = {*figures.PAGES, *(benchmark.DOCS for benchmark in BENCHMARKS), *(each.PICTURE for each in DRAWN)}
    before = {page: page.read_text(encoding="utf-8") for page in pages}
    try:
        for benchmark in BENCHMARKS:
            benchmark.write_tables()
        for benchmark in DRAWN:
            benchmark.write_picture()
        for page in figures.PAGES:
            figures.fill(page)
        stale = sorted(page for page, text in before.items() if page.read_text(encoding="utf-8") != text)
    finally:
        if check:
            for page, text in before.items():
                page.write_text(text, encoding="utf-8")
    typed = {page: found for page in figures.PAGES if (found := list(figures.by_hand(page)))}
    for page in stale:
        say(f"{page.relative_to(figures.ROOT)} {'differs from' if check else 'now agrees with'} the results")
    for page, found in typed.items():
        say(f"{page.relative_to(figures.ROOT)}: typed by hand, and not in benchmarks/common/typed.py: {found}")
    return int(bool(typed) or (check and bool(stale)))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
