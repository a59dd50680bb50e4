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
import torch
from extras import needs

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu
from gpu import check_graph, correct, record, run, table, timing
from gpu.card import UNKNOWN, parsed_state
from gpu.checks import Place, WrongError, near, rounded_alike, same
from gpu.dry import DryCard
from gpu.inputs import DRY, GRID, SHORT
from gpu.products import shapes

from vlapack.errors import InputError, WorkError
from vlapack.pi0.config import CONFIGS
from vlapack.pi0.recorder import Recorder

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


@pytest.fixture
def beginning() -> dict[str, Any]:
    return record.head(DryCard())


CELL = {"status": "not measured", "reason": "no room"}


def test_finished_cells_are_kept_and_others_done_again(beginning: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    first = record.Record(file, copy.deepcopy(beginning))
    first.put("correct", "one", {"status": "right"})
    first.put("chunk", "two", CELL)
    second = record.Record(file, copy.deepcopy(beginning))
    assert second.kept("correct", "one")
    assert not second.kept("chunk", "two")
    second.put("chunk", "two", {**CELL, "reason": "still none"})
    assert [cell["name"] for cell in record.read(file)["cells"]] == ["one", "two"]
    assert not record.Record(file, beginning, again=True).kept("correct", "one")


@pytest.mark.parametrize("key", record.IDENTITY)
def test_cells_of_other_code_or_another_card_are_not_kept(beginning: dict[str, Any], tmp_path: Path, key: str) -> None:
    first = record.Record(tmp_path / "gpu.json", copy.deepcopy(beginning))
    first.put("correct", "one", {"status": "right"})
    other = {"card": {**beginning["card"], "driver": "1.2"}, "dry": False}.get(key, "another")
    assert not record.Record(tmp_path / "gpu.json", {**beginning, key: other}).kept("correct", "one")


def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: dict[str, Any], **options: Any) -> run.Bench:
    monkeypatch.setattr(run, "checks", lambda: checks)
    return run.Bench(DryCard(), run.Options(file=tmp_path / "gpu.json", **options))


def test_a_wrong_integer_ends_the_run_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(place: Place) -> None:
        same(torch.tensor([1, 2, 4]), torch.tensor([1, 2, 3]), "a product")

    checks = {"bad": wrong, "broken": lambda place: 1 / 0, "good": lambda place: None}
    with pytest.raises(WorkError, match="of 3 checks these are not right") as error:
        bench(tmp_path, monkeypatch, checks).run()
    assert "bad: a product: 1 of 3 differ; at [2] it is 4 instead of 3" in str(error.value)
    cells = record.read(tmp_path / "gpu.json")["cells"]
    assert {cell["name"]: cell["status"] for cell in cells} == {"bad": "wrong", "broken": "failed", "good": "right"}


def test_checks_run_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("triton", remedy="pip install '.[gpu]', on Linux")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(correct, "workers_for", lambda card, count: 2)
    names = ["product, NaN", "product, strides", "no such check"]
    told = dict(correct.verdicts(DryCard(), {}, names))
    assert [told[name]["status"] for name in names] == ["right", "right", "failed"]
    assert "no such check" in told["no such check"]["reason"]


def test_a_cell_without_room_is_not_measured_and_the_next_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*arguments: Any) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(run.chunks, "measure", measure)
    assert bench(tmp_path, monkeypatch, {}, parts=("chunks",)).run() == 0
    cells = [cell for cell in record.read(tmp_path / "gpu.json")["cells"] if cell["kind"] == "chunk"]
    assert [cell["status"] for cell in cells] == ["not measured"] * len(SHORT)
    assert "out of memory" in cells[0]["reason"]


def test_a_card_that_fails_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*arguments: Any) -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(run.products, "measure", measure)
    with pytest.raises(WorkError, match="the card failed"):
        bench(tmp_path, monkeypatch, {}, parts=("products",)).run()
    assert len([cell for cell in record.read(tmp_path / "gpu.json")["cells"] if cell["kind"] == "product"]) == 1


def test_a_cell_that_fails_is_told_when_the_others_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(card: Any, chunk: Any, ceilings: Any) -> dict[str, Any]:
        raise TypeError(f"no kernel for {chunk.contender}")

    monkeypatch.setattr(run.chunks, "measure", measure)
    with pytest.raises(WorkError, match=r"chunks that did not run: .*no kernel for bf16.*no kernel for full"):
        bench(tmp_path, monkeypatch, {}, parts=("chunks",)).run()


def test_no_cell_is_begun_when_the_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path, monkeypatch, {}, parts=("chunks",), seconds=0.0).run() == 0
    assert record.read(tmp_path / "gpu.json")["cells"] == []
    assert f"{len(SHORT)} cells were not begun" in capsys.readouterr().err


class Clock(DryCard):
    """A card whose runs take a tenth of a second each."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def run(self) -> dict[str, float]:
        self.seconds += 0.1
        return {"wall": 100.0}


@pytest.mark.parametrize(
    ("limits", "warm", "samples"),
    [
        (timing.Limits(3, 20.0, 5, 30.0), 3, 5),
        (timing.Limits(300, 1.05, 5, 30.0), 11, 5),
        (timing.Limits(3, 20.0, 200, 1.05), 3, 8),
        (timing.Limits(3, 0.0, 3, 0.0), 1, 1),
    ],
)
def test_warm_up_and_samples_end_by_number_or_by_time(limits: timing.Limits, warm: int, samples: int) -> None:
    card = Clock()
    found = timing.measured(card, card.run, limits)
    assert (found["warm_up"], found["samples"]) == (warm, samples)


def test_percentiles_are_values_that_were_measured() -> None:
    assert timing.percentiles([float(value) for value in range(200, -1, -1)]) == {"p50": 100, "p95": 190, "min": 0}
    assert timing.percentiles([7.0]) == {"p50": 7, "p95": 7, "min": 7}


def test_a_chunk_is_timed_from_its_first_replay_to_its_last() -> None:
    card = DryCard()
    watched = timing.Watched(card)
    encode, step = (watched(lambda: torch.zeros(1)) for _ in range(2))
    assert watched.milliseconds() is None
    for _ in range(2):
        watched.clear()
        encode.replay()
        for _ in range(10):
            step.replay()
        assert watched.milliseconds() == 11  # marks behind the first
        assert watched.replays == [1, 10]


def test_a_capture_that_gives_old_results_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stale(Recorder):
        def replay(self) -> None:
            """Leave what the capture has computed."""

    monkeypatch.setattr(DryCard, "capturing", lambda self: Stale)
    told = correct.verdict(DryCard(), check_graph.CHECKS["a float chunk in fp32, replayed"])
    assert told["status"] == "wrong"


def test_comparisons_find_one_integer_among_many() -> None:
    q, s = torch.randint(-127, 128, (50, 40), dtype=torch.int8), torch.rand(50, 1) + 0.5
    for change in (2, -2):
        other = q.clone()
        other[7, 3] = change if abs(int(q[7, 3]) - change) > 1 else -change
        with pytest.raises(WrongError, match="1 of 2000"):
            rounded_alike((other, s), (q, s), torch.float32, 1e-3, "q")
        with pytest.raises(WrongError, match=r"1 of 2000 differ; at \[7, 3\]"):
            same(other, q, "q")
    with pytest.raises(WrongError, match="scales differ"):
        rounded_alike((q, s * 1.001), (q, s), torch.float32, 1e-3, "q")
    with pytest.raises(WrongError, match=r"off by up to 0\.5"):
        near(s + 0.5, s, 0.4, "y")
    with pytest.raises(WrongError, match="off by up to nan"):
        near(s * torch.nan, s, 0.4, "y")


def test_a_card_that_does_not_tell_its_clocks_is_unknown() -> None:
    assert parsed_state("1980, 2619, 700.00, 113.02, 41\n") == {
        "sm_mhz": 1980,
        "memory_mhz": 2619,
        "power_limit_w": 700,
        "power_w": 113.02,
        "celsius": 41,
    }
    assert set(parsed_state("[N/A], [N/A]").values()) == {UNKNOWN}
    assert set(parsed_state("").values()) == {UNKNOWN}


def test_products_have_the_sizes_of_the_network() -> None:
    sizes = {(shape.part, shape.m) for shape in shapes(CONFIGS["pi05"])}
    assert sizes == {("expert", 10), ("expert", 50), ("llm", 544), ("vision", 768)}
    assert {(shape.n, shape.k) for shape in shapes(CONFIGS["pi05"]) if shape.part == "expert"} == {
        (2048, 1024), (256, 1024), (1024, 2048), (4096, 1024), (1024, 4096),
    }  # fmt: skip


def test_the_grid_holds_what_is_always_measured() -> None:
    assert set(SHORT) <= set(GRID)
    assert len(set(GRID)) == len(GRID)
    assert gpu.__doc__ is not None
