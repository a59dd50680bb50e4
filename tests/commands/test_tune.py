"""`vlapack tune`: a recipe within its target that `quantize` takes; killed, resumed, and again for another target."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import random_observations, write_observations

from vlapack.cli import main
from vlapack.commands.measuring import parse_bytes, parse_error
from vlapack.errors import InputError
from vlapack.recipe.recipe import read_recipe, read_tuned
from vlapack.tune import trial
from vlapack.tune.folder import TuningFolder

BUDGET = 550_000


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
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / "cache"))

    def run(*words: str, target: tuple[str, ...] = ("--budget-file", f"{BUDGET / 1e6}MB"), out: str = "r.json") -> int:
        common = ["--calib", str(calib), "--out", str(tmp_path / out)]
        return main(["tune", str(random_checkpoint), *target, *common, *words])

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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.frontier.json", "r.frontier.svg", "r.json"]
    assert document["bytes"]["file"] <= document["target"]["value"] == BUDGET
    assert sum(document["layers"].values()) == 51  # every linear, and the embedding
    tried = [point for point in document["points"] if point["measured"]]
    assert document["error"]["median"] == min(point["measured"]["median"] for point in tried)
    assert {"full", "uniform W4", "uniform W8", "allocation"} <= {point["name"] for point in document["points"]}
    assert all(point["ms"] > 0 and point["held_bytes"] > 0 for point in document["points"])

    frontier = json.loads((tmp_path / "r.frontier.json").read_text())
    assert frontier["points"] == document["points"]
    assert all(set(errors) <= {"4", "8"} for errors in frontier["sensitivity"].values())
    recipe, note = read_recipe(tmp_path / "r.json"), read_tuned(tmp_path / "r.json")
    assert recipe.calib_steps == document["observations"]["calibrating"] == 4
    assert note is not None
    assert note["median"] == document["error"]["median"]
    assert len((tmp_path / "r.json").read_text().splitlines()) < 250

    words = ["--recipe", str(tmp_path / "r.json"), "--calib", str(calib), "--json"]
    assert main(["quantize", str(random_checkpoint), "--out", str(tmp_path / "pack"), *words]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"]["file"] == document["bytes"]["file"]
    assert (tmp_path / "pack" / "model.safetensors").stat().st_size == document["bytes"]["file"]


def test_killed_the_same_command_goes_on_to_the_same_recipe(
    tune: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, made, kills = TuningFolder.keep, [], []

    def counted(work: TuningFolder, name: str, tensors: Any) -> None:
        if len(made) in kills:
            kills.remove(len(made))
            raise KilledError
        made.append(name)
        keep(work, name, tensors)

    monkeypatch.setattr(TuningFolder, "keep", counted)
    assert tune(out="whole.json") == 0
    kinds = ["layers", "samples", "floats", "compared"]
    firsts = [next(number for number, name in enumerate(made) if name.startswith(kind)) for kind in kinds]
    kills += [firsts[0] + 20, *firsts[1:]]
    made.clear()
    for _ in range(4):
        with pytest.raises(KilledError):
            tune()
    assert tune() == 0
    assert len(made) == len(set(made))
    assert (tmp_path / "r.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_kept_folder_serves_another_target_without_measuring_again(
    tune: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = str(tmp_path / "work")
    assert tune("--work", work) == 0
    monkeypatch.setattr(trial, "sample", None)
    assert tune("--work", work, target=("--budget-file", "0.58MB"), out="larger.json") == 0
    assert (tmp_path / "r.json").read_bytes() != (tmp_path / "larger.json").read_bytes()
    capsys.readouterr()
    assert tune("--work", work, "--json", target=("--budget", "300KB"), out="held.json") == 0
    bytes_of = json.loads(capsys.readouterr().out)["bytes"]
    assert bytes_of["held"] <= 300_000 < bytes_of["file"]


def test_a_survey_measures_every_point_and_chooses_the_same(
    tune: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = str(tmp_path / "work")
    found = []
    for out, words in (("r.json", ()), ("survey.json", ("--survey",))):
        assert tune("--work", work, "--json", *words, out=out) == 0
        found.append(json.loads(capsys.readouterr().out)["points"])
    plain, survey = found
    assert None in [point["measured"] for point in plain]
    assert None not in [point["measured"] for point in survey]
    assert {**survey[0], "ms": 0} == {**plain[0], "ms": 0}  # times follow all points that ran
    assert [point["name"] for point in survey] == [point["name"] for point in plain]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--budget-file", "1KB"), "lies between 485636 bytes"),
        (("--budget-file", "2GB"), "unquantized"),
        (("--budget", "1KB"), "what a policy of this pack holds lies between"),
        (("--budget", "2"), "--budget 2 is not a size"),
        (("--max-error", "1"), "not an error between 0 and 100 %"),
        (("--max-error", "1%"), "5 observations are too few to tune on: give 20 or more"),
        ((), "no target is given"),
        (("--budget", "1MB", "--max-error", "1%"), "--max-error and --budget exclude each other"),
    ],
)
def test_an_impossible_target_is_refused_before_any_work(
    tune: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert tune(target=words) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--observations", "3"], "too few"),
        (["--choices", "4,5"], "5"),
        (["--choices", "4,16"], "16 is always among them"),
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
        with pytest.raises(InputError, match="not a size"):
            parse_bytes(text)


def test_errors_are_percentages_or_fractions() -> None:
    assert parse_error("1%") == parse_error(" 0.01 ") == 0.01
    assert parse_error("0.5 %") == 0.005
    for text in ("", "%", "-1%", "0", "1", "100%", "1e-3", "1 percent"):
        with pytest.raises(InputError, match="not an error between"):
            parse_error(text)
