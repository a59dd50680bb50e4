"""A run of `make bench-gpu` keeps what is finished, and stops for a wrong integer, a lost card or the time."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from extras import needs

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from gpu import correct, record, run
from gpu.checks import Place, same
from gpu.dry import DryCard
from gpu.inputs import SHORT

from vlapack.errors import WorkError


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
