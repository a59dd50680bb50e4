"""Write the docs' tables again from `benchmarks/results`, without measuring anything. Run by `make docs`.

    python scripts/write_tables.py

A table between markers is written by the benchmark that measured it; after a change of a table's form, or a merge, this
makes all of them agree with their results. `tests/benchmarks/test_tables.py` checks that they do.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import closed_loop
import closed_loop_large
import fidelity
import frontier_minilm
import presets
import rounding
import spectra
import tuning
from common import short_tables
from gate import table as gate_table
from gpu import table as gpu_table

BENCHMARKS = (
    closed_loop,
    closed_loop_large,
    fidelity,
    frontier_minilm,
    presets,
    rounding,
    short_tables,
    spectra,
    tuning,
    gate_table,
    gpu_table,
)
"""Each has the page that it writes to, `DOCS`, and `write_tables`."""

if __name__ == "__main__":
    for benchmark in BENCHMARKS:
        benchmark.write_tables()
    frontier_minilm.write_picture()
