"""The docs' tables are what the results say: nobody edits one by hand, or measures without writing it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from fill_docs import BENCHMARKS


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda module: module.__name__)
def test_writing_the_tables_again_changes_nothing(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    before = benchmark.DOCS.read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    monkeypatch.setattr(benchmark, "DOCS", page)
    benchmark.write_tables()
    assert page.read_text(encoding="utf-8") == before
