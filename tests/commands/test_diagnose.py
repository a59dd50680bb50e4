"""`vlapack diagnose` from its command line: what it refuses, what it prints, and that it goes on after a kill."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small import random_observations, write_observations

from vlapack.checkpoints import open_checkpoint
from vlapack.cli import main
from vlapack.packing.make import make_pack
from vlapack.policy.policy import Policy
from vlapack.recipe.presets import preset
from vlapack.tune.trial import Trial

CONTRACT = {
    *("pack", "baseline", "data", "seed", "verdict", "target", "target_from", "error", "spread", "held_bytes"),
    *("observations", "findings", "layers", "steps", "coverage", "remedies", "chosen", "recipe", "command"),
    "seconds",
}
Run = Callable[..., int]
HARD, EASY = ("--max-error", "2%"), ("--max-error", "90%")
"""Targets that a policy with random weights misses at 4 bits, and that it meets."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Path) -> Path:
    """A pack, what calibrated it, other data, and a place for what is measured, which the tests share."""
    folder = tmp_path_factory.mktemp("diagnose")
    for name, count, seed in (("calibrating", 4, 6), ("data", 16, 5)):
        (folder / name).mkdir()
        write_observations(folder / name, random_observations(count, seed=seed))
    recipe = replace(preset("dit-w4"), calib_steps=4)
    make_pack(open_checkpoint(random_checkpoint), recipe, folder / "pack", random_observations(4, seed=6))
    return folder


@pytest.fixture
def run(folder: Path, random_checkpoint: Path) -> Run:
    def diagnose(*words: str, calib: str = "calibrating") -> int:
        fixed = ["--baseline", str(random_checkpoint), "--data", str(folder / "data"), "--calib", str(folder / calib)]
        return main(["diagnose", str(folder / "pack"), *fixed, *words])

    return diagnose


@pytest.mark.slow
def test_one_document_and_a_recipe_that_quantize_takes(
    run: Run, folder: Path, random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.json"
    capsys.readouterr()
    assert run("--json", *HARD, "--work", str(folder / "work"), "--out", str(recipe)) == 1
    found = json.loads(capsys.readouterr().out)
    assert set(found) == CONTRACT
    assert found["verdict"] == "ill"
    assert found["observations"] == {"calibrating": 4, "kept": 8, "given": 8}
    assert found["error"]["frames"] == 8
    assert len(found["steps"]) == 10
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert {len(layer["by_step"]) for layer in found["layers"]} == {10}
    assert found["recipe"] == str(recipe)
    chosen = next(one for one in found["remedies"] if one["name"] == found["chosen"])
    assert chosen["held_bytes"] == min(one["held_bytes"] for one in found["remedies"] if one["helps"])
    calib = folder / ("data" if chosen["recalibrates"] else "calibrating")
    words = ["--recipe", str(recipe), "--calib", str(calib), "--out", str(tmp_path / "healed")]
    assert shlex.split(found["command"])[:-2] == ["vlapack", "quantize", str(random_checkpoint), *words[:-2]]
    assert main(["quantize", str(random_checkpoint), *words]) == 0
    assert Policy.from_pretrained(tmp_path / "healed").held_bytes() == chosen["held_bytes"]
    assert Policy.from_pretrained(folder / "pack").held_bytes() == found["held_bytes"]
    assert found["error"]["median"] > found["target"] >= chosen["median"]


@pytest.mark.slow
def test_people_get_sections_and_the_command_to_type(
    run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(*HARD, "--work", str(folder / "work"), "--out", str(tmp_path / "recipe.json")) == 1
    shown = capsys.readouterr().out
    for part in ("is not sound", "because", "remedy", "along the flow", "remedies tried", "vlapack quantize"):
        assert part in shown


def test_a_killed_run_goes_on_and_leaves_nothing(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    def finished() -> dict[str, int]:
        [partial] = folder.glob("*.partial")
        return {path.name: path.stat().st_mtime_ns for path in (partial / "floats").iterdir()}

    sensitivity, seen = Trial.sensitivity, []

    def look(*arguments: Any) -> Any:
        seen.append(finished())
        return sensitivity(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "sensitivity", die)
        with pytest.raises(KilledError):
            run("--json", *EASY)
    kept = finished()
    monkeypatch.setattr(Trial, "sensitivity", look)
    capsys.readouterr()
    assert run("--json", *EASY) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["remedies"], found["recipe"], found["command"]) == ("sound", [], None, None)
    assert seen == [kept]
    assert not [path for path in folder.iterdir() if path.suffix in (".partial", ".json")]


@pytest.mark.slow
def test_a_balanced_pack_says_what_remedies_were_tried_without(
    folder: Path, random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(preset("quantvla"), calib_steps=4)
    make_pack(open_checkpoint(random_checkpoint), recipe, tmp_path / "pack", random_observations(4, seed=6))
    words = ["--baseline", str(random_checkpoint), "--data", str(folder / "data"), "--json", *HARD]
    capsys.readouterr()
    assert main(["diagnose", str(tmp_path / "pack"), *words]) == 1
    found = json.loads(capsys.readouterr().out)
    kinds = [one["kind"] for one in found["findings"]]
    assert "balance" in kinds
    assert not {"damaged_layer", "layers_disagree"} & set(kinds)
    assert found["remedies"]


@pytest.mark.parametrize("smooth", [pytest.param(0.0, marks=pytest.mark.slow), 0.15])
def test_embedding_and_adaptive_norms_are_looked_at_too(
    folder: Path, random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], smooth: float
) -> None:
    recipe = replace(preset("everything"), calib_steps=4, smooth=smooth)
    make_pack(open_checkpoint(random_checkpoint), recipe, tmp_path / "pack", random_observations(4, seed=6))
    words = ["--baseline", str(random_checkpoint), "--data", str(folder / "data"), "--json", *EASY]
    capsys.readouterr()
    assert main(["diagnose", str(tmp_path / "pack"), *words, "--calib", str(folder / "calibrating")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {layer["part"] for layer in found["layers"]} == {"vision", "projector", "llm", "expert", "adarms", "action"}
    assert not [one for one in found["findings"] if one["kind"] == "layers_disagree"]
    assert found["held_bytes"] == Policy.from_pretrained(tmp_path / "pack").held_bytes()


def test_what_cannot_be_used_is_refused(
    run: Run, folder: Path, random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        return capsys.readouterr().err.replace("\n", " ")

    assert run("--max-error", "150%") == 2
    assert "--max-error" in said()
    assert run("--frames", "4") == 2
    assert "--frames" in said()
    words = ["--baseline", str(random_checkpoint), "--data", str(folder / "data")]
    assert main(["diagnose", str(random_checkpoint), *words]) == 2
    assert "is not a pack" in said()
    assert main(["diagnose", str(folder / "pack"), *words, "--baseline", str(folder / "pack")]) == 2
    assert "is a pack already" in said()
    (tmp_path / "recipe.json").write_text("{}")
    assert run("--out", str(tmp_path / "recipe.json")) == 2
    assert "--out" in said()


def test_another_calibration_set_is_not_believed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(*EASY, "--json", calib="data") == 0
    shown = capsys.readouterr()
    assert "is not known" in shown.err
    found = json.loads(shown.out)
    assert found["coverage"] is None
    assert found["observations"] == {"calibrating": 0, "kept": 8, "given": 8}
