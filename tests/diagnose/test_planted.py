"""Packs of the shipped policy that are broken on purpose: the cause is named, and the remedy is the one that fits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from broken_packs import damaging, observations_of_one_task

from vlapack.checkpoints import SHIPPED, open_checkpoint
from vlapack.cli import main
from vlapack.observations.folder import SHIPPED_OBSERVATIONS, load_observations
from vlapack.packing.make import make_pack
from vlapack.recipe.choice import Choice
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe, read_recipe

PARENT = "tiny-libero"
OTHER_PARENT = Path(__file__).parents[1] / "data" / "tiny-libero-1"
VICTIM = "paligemma_with_expert.paligemma.model.language_model.layers.1.mlp.down_proj"
FINE = replace(preset("full-w4"), weight_bits=8, calib_steps=8)


def pack(out: Path, recipe: Recipe, folder: Path = SHIPPED_OBSERVATIONS) -> Path:
    make_pack(open_checkpoint(PARENT), recipe, out, load_observations(folder, recipe.calib_steps))
    return out


def diagnosed(
    pack: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str] = (), baseline: str = PARENT
) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    command = [
        "diagnose",
        str(pack),
        "--baseline",
        baseline,
        "--data",
        str(SHIPPED_OBSERVATIONS),
        "--frames",
        "32",
        "--json",
        *words,
    ]
    code = main(command)
    return code, json.loads(capsys.readouterr().out)


def test_a_wrong_parent_is_named_and_nothing_else_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(preset("dit-fast"), weight_bits=8)
    make_pack(open_checkpoint(PARENT), recipe, tmp_path / "pack", None)
    code, found = diagnosed(tmp_path / "pack", capsys, baseline=str(OTHER_PARENT))
    assert code == 1
    assert (found["findings"][0]["kind"], found["findings"][0]["severity"]) == ("wrong_parent", "critical")
    assert found["error"] is None
    assert not found["remedies"]
    assert found["command"] is None


@pytest.mark.slow
def test_a_sound_pack_is_called_so_and_nothing_is_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = diagnosed(pack(tmp_path / "pack", FINE), capsys)
    assert code == 0
    assert found["verdict"] == "sound"
    assert found["error"]["median"] < found["target"]
    assert not [one for one in found["findings"] if one["severity"] in ("critical", "major")]
    assert (found["remedies"], found["recipe"], found["command"]) == ([], None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pack"]


@pytest.mark.slow
def test_a_damaged_layer_is_named_and_packing_again_heals_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        damaging(patch, VICTIM)
        pack(tmp_path / "pack", FINE)
    code, found = diagnosed(tmp_path / "pack", capsys)
    assert code == 1
    worst = found["findings"][0]
    assert (worst["kind"], worst["severity"], worst["layers"]) == ("damaged_layer", "critical", [VICTIM])
    assert found["layers"][0]["name"] == VICTIM
    assert [one["kind"] for one in found["remedies"]] == ["again"]
    assert found["remedies"][0]["held_bytes"] == found["held_bytes"]
    assert found["remedies"][0]["median"] < found["target"] < found["error"]["median"]
    assert read_recipe(Path(found["recipe"])) == FINE


@pytest.mark.slow
def test_one_layer_with_too_few_bits_is_named_and_gets_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    starved = replace(FINE, overrides=((f"^{VICTIM}$", Choice(4, act_bits=4)),))
    code, found = diagnosed(pack(tmp_path / "pack", starved), capsys, ["--max-error", "1.2%"])
    assert code == 1
    worst = found["findings"][0]
    assert (worst["kind"], worst["severity"], worst["layers"]) == ("worst_layers", "major", [VICTIM])
    assert found["layers"][0]["share"] > 0.5
    chosen = next(one for one in found["remedies"] if one["name"] == found["chosen"])
    assert chosen["helps"]
    assert chosen["held_bytes"] == min(one["held_bytes"] for one in found["remedies"] if one["helps"])
    read_recipe(Path(found["recipe"]))
    assert found["command"].startswith("vlapack quantize tiny-libero --recipe ")


@pytest.mark.slow
def test_calibration_on_one_task_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_task = observations_of_one_task(tmp_path / "one-task")
    recipe = replace(preset("full-w4"), calib_steps=7)
    made = pack(tmp_path / "pack", recipe, one_task)
    code, found = diagnosed(made, capsys, ["--calib", str(one_task)])
    assert code == 1
    assert (found["findings"][0]["kind"], found["findings"][0]["severity"]) == ("calibration", "major")
    assert found["coverage"]["frames_with_unseen_prompt"] > 0.8 * found["coverage"]["frames"]
    again = next(one for one in found["remedies"] if one["kind"] == "calibration")
    assert again["held_bytes"] == found["held_bytes"]
    assert again["median"] < 0.85 * found["error"]["median"]
    chosen = next(one for one in found["remedies"] if one["name"] == found["chosen"])
    assert chosen["recalibrates"]
    # GPTQ's integers differ from CPU to CPU: with AVX2, more calibration alone is not quite enough for the target, and
    # the cheapest remedy has some layers of more bits as well (2.5 % of the bytes).
    assert chosen["held_bytes"] < 1.05 * found["held_bytes"]
    assert f"--calib {SHIPPED_OBSERVATIONS}" in found["command"]


def test_the_shipped_parent_is_where_the_tests_think() -> None:
    assert PARENT in SHIPPED
    assert (OTHER_PARENT / "model.safetensors").is_file()
