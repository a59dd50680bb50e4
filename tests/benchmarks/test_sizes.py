"""The sizes that every page quotes are those of the presets as they are now."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import sizes
from common.results import read_rows


def test_a_changed_preset_or_script_needs_new_sizes() -> None:
    assert sizes.counted() == read_rows(sizes.RESULT), "run benchmarks/sizes.py, then make docs"
