"""The example with another simulator runs as it stands, with a stand-in for SIMPLER and a random policy."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_another_simulator_comes_in_through_the_factory(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Spawned workers import both by their names, and inherit this path.
    for folder in (HERE, HERE.parents[1] / "examples" / "simpler"):
        monkeypatch.syspath_prepend(str(folder))
    example = importlib.import_module("simpler_eval")
    policy = str(random_checkpoint)
    try:
        summary = example.main(policy, policy, out=tmp_path, trials=2, replan=4, workers=1, videos=False)
    finally:
        sys.modules.pop("simpler_eval", None)
    assert summary["suite"] == "simpler"
    assert (summary["episodes"], summary["errors"]) == (8, 0)
    assert summary["paired"]["only_policy"] == summary["paired"]["only_baseline"] == 0
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert all(len(line["infer_ms"]) == -(-line["steps"] // 4) for line in lines)
