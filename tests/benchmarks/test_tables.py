"""The docs' tables are what the results say: nobody edits one by hand, or measures without writing it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
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


@pytest.mark.parametrize(
    "benchmark",
    [
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
    ],
    ids=lambda module: module.__name__,
)
def test_writing_the_tables_again_changes_nothing(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    before = benchmark.DOCS.read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    monkeypatch.setattr(benchmark, "DOCS", page)
    benchmark.write_tables()
    assert page.read_text(encoding="utf-8") == before
