"""`vlapack diagnose` from its command line: what it refuses, what it prints, and that it goes on after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small import random_observations, write_observations

from vlapack.checkpoints import open_checkpoint
from vlapack.cli import main
from vlapack.packing.make import make_pack
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import read_recipe
from vlapack.tune.trial import Trial

CONTRACT = {
    *("pack", "baseline", "data", "seed", "verdict", "target", "target_from", "error", "spread", "held_bytes"),
    *("observations", "findings", "layers", "left_out", "steps", "coverage", "remedies", "chosen", "recipe", "command"),
    "seconds",
}
Run = Callable[..., int]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_observations(tmp_path_factory.mktemp("data"), random_observations(20, seed=5))


@pytest.fixture(scope="module")
def calibrating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_observations(tmp_path_factory.mktemp("calibrating"), random_observations(4, seed=6))


@pytest.fixture
def pack(random_checkpoint: Path, tmp_path: Path) -> Path:
    recipe = replace(preset("full-w4"), calib_steps=4)
    make_pack(open_checkpoint(random_checkpoint), recipe, tmp_path / "pack", random_observations(4, seed=6))
    return tmp_path / "pack"


@pytest.fixture
def run(pack: Path, random_checkpoint: Path, data: Path, calibrating: Path) -> Run:
    def diagnose(*words: str) -> int:
        fixed = ["--baseline", str(random_checkpoint), "--data", str(data), "--calib", str(calibrating)]
        return main(["diagnose", str(pack), *fixed, *words])

    return diagnose


def test_one_document_and_a_recipe_that_quantize_takes(
    run: Run, pack: Path, random_checkpoint: Path, calibrating: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("--json", "--max-error", "2%") == 1
    found = json.loads(capsys.readouterr().out)
    assert set(found) == CONTRACT
    assert found["verdict"] == "ill"
    assert found["observations"] == {"calibrating": 4, "kept": 10, "given": 10}
    assert found["error"]["frames"] == 10
    assert len(found["steps"]) == 10
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert {len(layer["by_step"]) for layer in found["layers"] if layer["part"] == "expert"} == {10}
    assert found["chosen"] is not None
    recipe = Path(found["recipe"])
    read_recipe(recipe)
    assert not list(pack.parent.glob("*.partial"))
    words = ["--recipe", str(recipe), "--calib", str(calibrating), "--out", str(pack.parent / "healed")]
    assert main(["quantize", str(random_checkpoint), *words]) == 0
    held = {one["name"]: one["held_bytes"] for one in found["remedies"]}
    from vlapack.policy.policy import Policy

    assert Policy.from_pretrained(pack.parent / "healed").held_bytes() == held[found["chosen"]]
    assert Policy.from_pretrained(pack).held_bytes() == found["held_bytes"]


def test_people_get_sections_and_the_command_to_type(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run("--max-error", "2%") == 1
    shown = capsys.readouterr().out
    for part in ("is not sound", "because", "remedy", "along the flow", "remedies tried", "vlapack quantize"):
        assert part in shown


def test_a_killed_run_goes_on(
    run: Run, pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "sensitivity", die)
        with pytest.raises(KilledError):
            run("--json", "--max-error", "2%")
    [partial] = pack.parent.glob("*.partial")
    kept = {path.name: path.stat().st_mtime_ns for path in (partial / "floats").iterdir()}
    seen = {}

    def look(*arguments: object) -> object:
        seen.update({path.name: path.stat().st_mtime_ns for path in (partial / "floats").iterdir()})
        return sensitivity(*arguments)

    sensitivity = Trial.sensitivity
    monkeypatch.setattr(Trial, "sensitivity", look)
    assert run("--json", "--max-error", "2%") == 1
    assert seen == kept


def test_what_cannot_be_used_is_refused(
    run: Run, pack: Path, random_checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        return capsys.readouterr().err.replace("\n", " ")

    assert run("--max-error", "150%") == 2
    assert "--max-error" in said()
    assert run("--frames", "4") == 2
    assert "--frames" in said()
    assert main(["diagnose", str(random_checkpoint), "--baseline", str(random_checkpoint), "--data", str(data)]) == 2
    assert "is no pack" in said()
    assert main(["diagnose", str(pack), "--baseline", str(pack), "--data", str(data)]) == 2
    assert "is a pack already" in said()
    pack.with_name("pack.remedy.json").write_text("{}")
    assert run() == 2
    assert "--out" in said()


def test_another_calibration_set_is_not_believed(
    pack: Path, random_checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["--baseline", str(random_checkpoint), "--data", str(data), "--calib", str(data), "--max-error", "90%"]
    assert main(["diagnose", str(pack), *words, "--json"]) == 0
    shown = capsys.readouterr()
    assert "is not known" in shown.err
    found = json.loads(shown.out)
    assert found["coverage"] is None
    assert found["observations"]["calibrating"] == 0
