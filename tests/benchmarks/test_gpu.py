"""`make bench-gpu` runs from end to end without a card, and stops, keeps and refuses what it should."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from extras import needs

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gpu import check_graph, record, table
from gpu.inputs import DRY, SHORT
from gpu.products import shapes

from vlapack.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts" / "device_check.sh"


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, dict[str, Any]]:
    """Exit code, words and result of `scripts/device_check.sh`, without a card, in a Python that has little."""
    needs("triton", remedy="pip install '.[gpu]', on Linux")
    out = tmp_path_factory.mktemp("out")
    environ = os.environ | {
        "OUT": str(out),
        "PYTHON": f"{sys.executable} {Path(__file__).with_name('bare.py')}",
        "VLAPACK_BENCH_DRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([str(SCRIPT)], env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, json.loads((out / "gpu.json").read_text())


def test_all_of_it_runs_where_there_are_only_torch_triton_and_numpy(checked: tuple[int, str, dict[str, Any]]) -> None:
    code, said, document = checked
    assert code == 0, said
    assert record.problems(document) == []
    assert document["dry"] is True
    told = {(cell["kind"], cell["name"]): cell for cell in document["cells"]}
    assert {cell["status"] for (kind, _), cell in told.items() if kind == "correct"} == {"right"}
    assert {name for kind, name in told if kind == "product"} == {shape.name for shape in shapes(DRY)}
    chunks = {chunk.contender: told["chunk", chunk.name] for chunk in SHORT}
    assert {name: cell["status"] for name, cell in chunks.items()} == {
        "bf16": "measured",
        "full": "measured",
        "full at 8 bits": "measured",
        "openpi": "not measured",
    }
    assert {cell["how"] for cell in chunks.values() if "how" in cell} == {"graph"}


def test_every_module_of_checks_had_its_turn(checked: tuple[int, str, dict[str, Any]]) -> None:
    names = [cell["name"] for cell in checked[2]["cells"] if cell["kind"] == "correct"]
    for what in ("product 4-bit, sums", "gate and up", "float inputs", "step after a norm, adaptive", "attention"):
        assert any(name.startswith(what) for name in names), what
    assert set(check_graph.CHECKS) <= set(names)


@pytest.mark.parametrize(
    ("codes", "expected", "begun"),
    [
        ({}, 0, 3),
        ({"correct": 1}, 1, 1),
        ({"correct": 2}, 2, 1),
        ({"correct": 124}, 3, 1),
        ({"products": 124}, 3, 3),
        ({"products": 137, "chunks": 1}, 1, 3),
        ({"products": 1, "chunks": 124}, 1, 3),
    ],
)
def test_the_script_ends_with_the_code_of_what_happened(
    tmp_path: Path, codes: dict[str, int], expected: int, begun: int
) -> None:
    stub = tmp_path / "python"
    cases = "\n".join(f'*"--only {part} "*) exit {code};;' for part, code in codes.items())
    stub.write_text(f'#!/bin/sh\ncase "$* " in\n{cases}\n*) exit 0;;\nesac\n')
    stub.chmod(0o755)
    done = subprocess.run(
        [str(SCRIPT)], env=os.environ | {"OUT": str(tmp_path), "PYTHON": str(stub)}, capture_output=True, check=False
    )
    assert done.returncode == expected
    assert len((tmp_path / "summary.txt").read_text().splitlines()) == begun


def test_a_dry_result_is_never_published(checked: tuple[int, str, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "gpu-dry.json").write_text(record.text_of(checked[2]))
    with pytest.raises(InputError, match="a dry run, whose figures mean nothing"):
        table.write_tables(tmp_path)


def measured_document(checked: tuple[int, str, dict[str, Any]]) -> dict[str, Any]:
    """The dry run's result as if it were of a card."""
    document = copy.deepcopy(checked[2])
    document["dry"] = False
    document["card"]["name"] = "NVIDIA H200"
    return document


def test_a_measured_card_stands_in_its_row_and_the_others_are_not_measured(
    checked: tuple[int, str, dict[str, Any]],
) -> None:
    document = measured_document(checked)
    full = next(cell for cell in document["cells"] if cell["name"] == SHORT[1].name)
    full["replay"]["p50"], full["wall"]["p50"] = 8.5, 9.25
    lines = table.text([document]).splitlines()
    row = next(line for line in lines if line.startswith("| H200 SXM"))
    assert "| 8.50 (9.25) |" in row
    assert "not measured" in next(line for line in lines if line.startswith("| RTX 4090"))
    assert any(line.startswith("| expert 10 × 32 × 32 |") for line in lines)


def test_a_card_that_no_row_is_for_gets_one(checked: tuple[int, str, dict[str, Any]]) -> None:
    document = measured_document(checked)
    document["card"]["name"] = "Orin"
    assert any(line.startswith("| Orin | – | – |") for line in table.text([document]).splitlines())


def test_a_result_with_a_wrong_integer_is_not_published(
    checked: tuple[int, str, dict[str, Any]], tmp_path: Path
) -> None:
    document = measured_document(checked)
    document["cells"].append({"kind": "correct", "name": "some op", "status": "wrong", "reason": "1 of 8 differ"})
    (tmp_path / "gpu-h200.json").write_text(record.text_of(document))
    with pytest.raises(InputError, match="some op: not right on this card"):
        table.read(tmp_path / "gpu-h200.json")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: d.pop("torch"), "torch must be str, not None"),
        (lambda d: d["ceilings"].update(bytes_per_s="fast"), "ceilings.bytes_per_s must be int or float, not 'fast'"),
        (lambda d: d["cells"][0].update(status="fine"), "kind 'correct' has no status 'fine'"),
        (lambda d: d["cells"][-4]["memory"].pop("context"), "memory.context must be"),
        (lambda d: d["cells"][-4]["replay"].pop("p95"), "replay.p95 must be"),
        (lambda d: d.update(type="vlapack.pack"), "an object of type 'vlapack.bench-gpu'"),
    ],
)
def test_what_is_damaged_is_named(
    checked: tuple[int, str, dict[str, Any]], tmp_path: Path, damage: Callable[[Any], Any], said: str
) -> None:
    document = copy.deepcopy(checked[2])
    damage(document)
    (tmp_path / "gpu.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"gpu\.json") as error:
        record.read(tmp_path / "gpu.json")
    assert said in str(error.value)
