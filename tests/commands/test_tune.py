"""`vlapack tune`: a recipe within its budget that `quantize` takes; killed, resumed, and again for another budget."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import random_observations, write_observations

from vlapack.cli import main
from vlapack.commands.tune import parse_bytes
from vlapack.errors import InputError
from vlapack.tune import trial
from vlapack.tune.folder import TuningFolder

BUDGET = 470_000


class KilledError(BaseException):
    """Stands for a kill where a process of its own would cost seconds."""


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_observations(tmp_path_factory.mktemp("five"), random_observations(5))


@pytest.fixture
def tune(random_checkpoint: Path, calib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    for name in [name for name in os.environ if name.startswith("OPENPI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(trial, "DIRECTIONS", 2)

    def run(*words: str, budget: str = f"{BUDGET / 1e6}MB", out: str = "recipe.json") -> int:
        common = ["--calib", str(calib), "--observations", "5", "--out", str(tmp_path / out)]
        return main(["tune", str(random_checkpoint), "--budget", budget, *common, *words])

    return run


def test_the_recipe_packs_to_the_bytes_that_were_said(
    tune: Callable[..., int],
    random_checkpoint: Path,
    calib: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune("--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "recipe.json.partial").exists()
    assert document["bytes"] <= document["budget"] == BUDGET
    assert sum(document["layers"].values()) == 51  # every linear, and the embedding
    best, *rivals = document["candidates"]
    assert best["name"] == "allocation"
    assert all(best["predicted"] <= rival["predicted"] for rival in rivals)
    assert document["error"]["measured"] == min(row["measured"] for row in document["candidates"] if row["measured"])
    assert all(set(errors) <= {"4", "8"} for errors in document["sensitivity"].values())

    words = ["--recipe", str(tmp_path / "recipe.json"), "--calib", str(calib), "--calib-steps", "5", "--json"]
    assert main(["quantize", str(random_checkpoint), "--out", str(tmp_path / "pack"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"]["after"] == document["bytes"]


def test_killed_the_same_command_goes_on_to_the_same_recipe(
    tune: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tune(out="whole.json") == 0
    keep, made, kills = TuningFolder.keep, [], [20, 64, 66]  # among the layers, the samples, the chunks

    def counted(work: TuningFolder, name: str, tensors: Any) -> None:
        if len(made) in kills:
            kills.remove(len(made))
            raise KilledError
        made.append(name)
        keep(work, name, tensors)

    monkeypatch.setattr(TuningFolder, "keep", counted)
    for _ in range(3):
        with pytest.raises(KilledError):
            tune()
    assert tune() == 0
    assert len(made) == len(set(made))
    assert (tmp_path / "recipe.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_kept_folder_serves_another_budget_without_measuring_again(
    tune: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = str(tmp_path / "work")
    assert tune("--work", work) == 0
    monkeypatch.setattr(trial, "sample", None)
    assert tune("--work", work, budget="0.5MB", out="larger.json") == 0
    assert (tmp_path / "recipe.json").read_bytes() != (tmp_path / "larger.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"budget": "1KB"}, "lies between 405536 bytes"),
        ({"budget": "2GB"}, "unquantized"),
        ({"budget": "2"}, "no size"),
    ],
)
def test_an_impossible_budget_is_refused_before_any_work(
    tune: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: dict[str, str], said: str
) -> None:
    assert tune(**words) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--observations", "3"], "too few"),
        (["--observations", "6"], "holds 5"),
        (["--preset", "fulll"], "did you mean 'full'"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_one_line(
    tune: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert tune(*words) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_sizes_are_decimal() -> None:
    assert parse_bytes("2.4GB") == 2_400_000_000
    assert parse_bytes(" 950 mb") == 950_000_000
    for text in ("", "GB", "-1GB", "1e3MB", "0MB", "5GiB"):
        with pytest.raises(InputError, match="no size"):
            parse_bytes(text)
