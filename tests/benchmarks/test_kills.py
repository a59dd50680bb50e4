"""A few of the moments that benchmarks/kills.py tries thirty of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from extras import needs

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import kills


@pytest.mark.slow
def test_whatever_is_killed_no_episode_is_lost_doubled_or_changed(tmp_path: Path) -> None:
    needs("ray", remedy="pip install '.[ray]'")
    rows = list(kills.kill_all(["driver", "worker", "node", "driver"], tmp_path))
    assert [(row["lost"], row["doubled"], row["changed"], row["lines"]) for row in rows] == [(0, 0, 0, 32)] * 4
    assert {row["runs"] for row in rows if row["victim"] == "driver"} == {2}
