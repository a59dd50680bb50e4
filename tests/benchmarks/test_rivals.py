"""benchmarks/rivals.py: a wrong layer would be measured without anybody noticing, and a table could hide a loss."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "rival_workers"))
from common import rival_tables
from common.exact_layers import exact, relative_error
from rival_cases import RUNS, Case, draw, layers, load, products, rounded
from rival_serving import Task

from vlapack.ops import engine

HEADS: dict[str, Any] = {"heads": 2, "head_dim": 32}
SMALL = (
    Case("product", "language", "product", 21, 96, 160),
    Case("language", "language", "language", 37, 64, 160, **HEADS, layers=2),
    Case("vision", "vision", "vision", 34, 96, 160, heads=3, head_dim=32, pictures=2, layers=2),
    Case("expert", "expert, 10", "expert", 7, 64, 160, **HEADS, prefix=19, layers=3),
)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_our_layers_compute_what_the_float64_reference_does(case: Case, tmp_path: Path) -> None:
    if engine.kernels is None:
        pytest.skip("the compiled engine is not installed")
    from our_worker import make

    draw(case, tmp_path / "case")
    threads = torch.get_num_threads()
    wanted = exact(case, tmp_path / "case")
    for name, build in make(Task(case, tmp_path / "case", threads, 2)).items():
        contender = build()
        contender.run(1)
        error = relative_error(torch.from_numpy(contender.output()), wanted, case)
        assert error < 0.1 * (1 + case.layers), name


def test_layers_differ_and_the_first_is_as_drawn(tmp_path: Path) -> None:
    case = SMALL[3]
    draw(case, tmp_path / "case")
    first, second = (load(case, tmp_path / "case", index) for index in (0, 1))
    np.testing.assert_array_equal(first["gate"][:-1], second["gate"][1:])
    np.testing.assert_array_equal(first["norm1"], second["norm1"])


@pytest.mark.parametrize(("bits", "group"), [(4, 8), (4, None), (8, None)])
def test_rounding_is_off_by_half_a_step_at_most(bits: int, group: int | None) -> None:
    weight = np.random.default_rng(1).standard_normal((5, 24)).astype(np.float32)
    integers, scale = rounded(weight, bits, group)
    steps = np.repeat(scale, group or 24, axis=1)
    assert np.abs(integers * steps - weight).max() <= 0.5001 * scale.max()
    assert integers.min() >= -(2 ** (bits - 1))


def test_a_part_of_the_cases_has_a_column_and_counts_in_a_chunk() -> None:
    assert {case.part for case in (*products(), *layers())} == set(RUNS) == set(rival_tables.PARTS)
    assert {part: runs for part, runs in RUNS.items() if runs} == rival_tables.RUNS


def _row(contender: str, ratio: float, **more: Any) -> dict[str, Any]:
    tool = contender.partition(" ")[0].strip(",")
    shape = {"case": "language layer", "part": "language", "kind": "language", "times_in_layer": 1, "threads": 1}
    times = {"wall": 0.1 * ratio, "cpu": 0.1 * ratio, "times_ours_wall": ratio, "times_ours_cpu": ratio}
    return {**shape, "tool": tool, "contender": contender, "says": "int8", "relative_error": 0.01, **times, **more}


def _document(*rows: dict[str, Any]) -> dict[str, Any]:
    machine = {"family": "26/2", "cores": 2, "cpu": "one"}
    return {"machine": machine, "rounds": 3, "commit": "0" * 40, "versions": {}, "missing": {}, "rows": list(rows)}


def test_the_table_says_who_is_faster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rivals-one.json").touch()
    monkeypatch.setattr(rival_tables, "RESULTS", tmp_path)
    failed = {"failed": "no kernel", "wall": None}
    broken = {key: value for key, value in _row("ggml Q4_0", 1.0, **failed).items() if value is not None}
    document = _document(_row("vlapack", 1.0), _row("zentorch int8", 0.8), _row("openvino int8", 1.25), broken)
    monkeypatch.setattr(rival_tables, "read", lambda name: document)
    text = rival_tables.layers()
    assert "Faster than vlapack: zentorch int8 in language layer (0.80 ×)." in text
    assert "| openvino int8 | 125 (1.25 ×) |" in text
    assert "ggml Q4_0, language layer: no kernel" in text
    document["rows"] = document["rows"][:1]
    assert "Nobody is faster than vlapack" in rival_tables.layers()


def test_without_a_result_the_page_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rival_tables, "RESULTS", tmp_path)
    assert (
        rival_tables.layers()
        == rival_tables.products()
        == rival_tables.errors()
        == "The comparison is not measured yet."
    )
