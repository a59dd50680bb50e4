"""`vlapack quantize`, given what no pack can be made of: it says what helps, and leaves nothing half-written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from shop import CALIBRATED, DIT, Shop, die
from small import SMALL, small_policy, write_random_checkpoint

from vlapack.checkpoints.pack.writer import PackWriter
from vlapack.cli import main
from vlapack.observations.folder import load_observations
from vlapack.pi0.flow import Pi0
from vlapack.policy.policy import Policy

CONFLICTS = {
    "another recipe": (["--block", "32"], "recipe.block: 64 there, 32 here", "recipe: "),
    "another seed": (["--seed", "3"], "recipe.seed: 0 there, 3 here", "recipe: "),
    "calibration": (["--calib-steps", "4"], "calibration: 'weights-only' there", "calibration: 'weights-only' there"),
    "other weights": ([], "weights: ", "weights: "),
}


@pytest.mark.parametrize("change", CONFLICTS)
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_that_holds_another_pack_is_refused_and_unharmed(shop: Shop, change: str, finished: bool) -> None:
    words, *messages = CONFLICTS[change]
    if finished:
        assert shop.quantize("pack", *DIT) == 0
    else:
        shop.interrupt((PackWriter, "finish", die), "pack", *DIT)
    held = "pack" if finished else "pack.partial/pack"
    before = shop.contents(held)
    if change == "other weights":
        shop.parent = write_random_checkpoint(shop.folder / "other", small_policy(), seed=1)
    recipe = DIT[:4] if change == "calibration" else DIT
    shop.said()
    assert shop.quantize("pack", *recipe, *words) == 2
    assert messages[0 if finished else 1] in shop.said()
    assert shop.contents(held) == before


def test_a_folder_of_something_else_is_never_written_into(shop: Shop) -> None:
    (shop.folder / "thesis").mkdir()
    (shop.folder / "thesis/chapter.txt").write_text("years of work")
    assert shop.quantize("thesis", *DIT) == 2
    assert shop.contents("thesis") == {"chapter.txt": b"years of work"}


BAD_INPUT = {
    "static scales from weights": (
        [*DIT, "--act-scale", "static"],
        "no calibration data for static activation scales: give --calib DIR, or --act-scale per_token",
    ),
    "smoothing from weights": ([*DIT, "--smooth", "0.2"], "smoothing (λ = 0.2)"),
    "GPTQ from weights": (
        ["--preset", "dit", "--weights-only"],
        "no calibration data for GPTQ: give --calib DIR, or --rounding rtn",
    ),
    "a greedy rotation of weights": ([*DIT, "--rotation", "greedy"], "--rotation hadamard"),
    "both sources": ([*DIT, "--calib", "here"], "exclude each other"),
    "too few observations": (
        ["--preset", "dit", "--calib-steps", "5"],
        "fewer than --calib-steps 5: record more, or give --calib-steps 4",
    ),
    "ATM from weights": (
        ["--preset", "quantvla", "--weights-only"],
        "--calib DIR, or --rounding rtn --atm False --ohb False",
    ),
    "ATM where rows of heads mix": (
        [*CALIBRATED, "--atm", "True", "--row-rot", "restore", "--block-out", "32"],
        "q_proj: row blocks of 32 mix its heads of 16 rows",
    ),
    "a scope of nothing": ([*DIT, "--scope", "policy.dit."], "matches no linear"),
    "no observations there": (["--preset", "dit", "--calib", "nowhere"], "nowhere"),
    "an unknown preset": (["--preset", "dot", "--weights-only"], "did you mean 'dit'"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_said_and_leaves_nothing(shop: Shop, case: str) -> None:
    words, message = BAD_INPUT[case]
    assert shop.quantize("pack", *words) == 2
    assert message in shop.said()
    assert list(shop.folder.iterdir()) == []


RECIPES = {
    "an unknown key": ({"blok": 16}, "no key 'blok'; did you mean 'block'?"),
    "a block of three": ({"block": 3}, "block = 3: it must be a power of two"),
    "five bits": ({"weight_bits": 5}, "weight_bits = 5 is not known; choose from 4, 8, 16"),
    "five bits of some": ({"overrides": [["q_proj", 5]]}, "overrides = 5 is not known"),
    "a smoothing of no number": ({"smooth": float("nan")}, "smooth = nan: λ lies in [0, 1]"),
    "a percentile of nothing": ({"act_percentile": 0}, "act_percentile = 0: it lies in (0, 100]"),
    "a seed without end": ({"seed": float("inf")}, "seed = inf: an integer"),
    "no calibration steps": ({"calib_steps": 0}, "calib_steps = 0: 1 or more"),
    "no pattern": ({"include": "("}, "include = '(' is not a regular expression"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_an_impossible_recipe_is_refused_by_file_key_and_value(shop: Shop, case: str) -> None:
    change, message = RECIPES[case]
    recipe = shop.folder / "recipe.json"
    recipe.write_text(json.dumps({"type": "vlapack.recipe", "version": 1, **change}))
    assert shop.quantize("pack", "--recipe", str(recipe)) == 2
    said = shop.said()
    assert message in said
    assert "recipe.json" in said
    assert list(shop.folder.iterdir()) == [recipe]


EXPERT = "paligemma_with_expert.gemma_expert.model.layers"
NORM = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers.0.layer_norm1.weight"
POISON = {
    "a weight that is packed": (
        f"{EXPERT}.1.mlp.up_proj.weight", torch.nan, DIT, "layers.1.mlp.up_proj.weight holds nan at [0, 3], so"
    ),
    "a weight on the way there": (
        f"{EXPERT}.0.self_attn.v_proj.weight", -torch.inf, CALIBRATED, "v_proj.weight holds -inf at [0, 3], so"
    ),
    "a norm that is not packed": (NORM, torch.nan, DIT, "layer_norm1.weight holds nan at [3], so"),
    "an activation": (
        f"{EXPERT}.0.mlp.up_proj.weight", 3e38, CALIBRATED,
        "the input of paligemma_with_expert.gemma_expert.model.layers.0.mlp.down_proj holds a NaN or an infinity",
    ),
}  # fmt: skip


def changed(shop: Shop, **values: tuple[str, Any, float]) -> None:
    """Give the shop a parent of its own, with single weights set."""
    shop.parent = shutil.copytree(shop.parent, shop.folder / "parent")
    tensors = load_file(shop.parent / "model.safetensors")
    for name, place, value in values.values():
        tensors[name][place] = value
    save_file(tensors, shop.parent / "model.safetensors")


@pytest.mark.parametrize("place", POISON)
def test_a_network_that_computes_no_numbers_names_the_layer_and_leaves_nothing(shop: Shop, place: str) -> None:
    name, value, words, message = POISON[place]
    changed(shop, weight=(name, 3 if name == NORM else (0, 3), value))
    assert shop.quantize("pack", *words) == 2
    assert message in shop.said()
    assert not list(shop.folder.glob("pack*"))


def test_a_width_that_no_block_divides_is_refused_and_packs_without_blocks(shop: Shop) -> None:
    odd = replace(SMALL, vision=replace(SMALL.vision, mlp_dim=82))
    shop.parent = write_random_checkpoint(shop.folder / "odd", small_policy(architecture=odd))
    words = ["--preset", "vision", "--rounding", "rtn", "--weights-only"]
    assert shop.quantize("pack", *words) == 2
    assert "layers.0.mlp.fc2: its 82 input channels have no block of 4 or more" in shop.said()
    assert not list(shop.folder.glob("pack*"))
    assert shop.quantize("pack", *words, "--rotation", "none", "--permute", "False") == 0


def test_channels_that_never_move_and_rows_of_zeros_are_packed_and_act(shop: Shop) -> None:
    """Nothing is wrong with them: a zero maximum scales by one, and a row of zeros stays zero."""
    changed(
        shop,
        constant=(NORM, slice(None), 0.0),
        zero_rows=(f"{EXPERT}.0.mlp.gate_proj.weight", slice(0, 9), 0.0),
        zero_layer=(f"{EXPERT}.1.self_attn.q_proj.weight", slice(None), 0.0),
    )
    words = ["--preset", "full", "--rounding", "rtn", "--calib-steps", "2", "--smooth", "0.2"]
    assert shop.quantize("pack", *words, "--atm", "True", "--ohb", "True") == 0
    [observation, *_] = load_observations(shop.observations)
    assert np.isfinite(Policy.from_pretrained(shop.folder / "pack").infer(observation)["actions"]).all()


def test_an_expert_that_is_never_reached_is_named(shop: Shop) -> None:
    """A forward that stops after the prefix: nothing is assumed of the expert's inputs."""
    shop.monkeypatch.setattr(Pi0, "velocity", lambda self, prefix, state, x, condition: torch.zeros_like(x))
    assert shop.quantize("pack", *CALIBRATED) == 2
    said = shop.said()
    assert "calibration never reached paligemma_with_expert.gemma_expert.model.layers.0." in said
    assert "without any (--weights-only) and with --rounding rtn" in said
    assert not list(shop.folder.glob("pack*"))


INCOMPLETE = {"tokenizer.model": "--tokenizer", "assets": "--norm-stats", "model.safetensors": "model.safetensors"}


@pytest.mark.parametrize("missing", INCOMPLETE)
def test_an_incomplete_parent_is_refused_with_what_helps(shop: Shop, missing: str) -> None:
    shop.monkeypatch.setenv("OPENPI_DATA_HOME", str(shop.folder / "no cache"))
    shop.monkeypatch.setenv("HF_HUB_CACHE", str(shop.folder / "no hub"))
    shop.parent = shutil.copytree(shop.parent, shop.folder / "parent")
    (shop.parent / missing).rename(shop.folder / "elsewhere")
    assert shop.quantize("pack", *DIT) == 2
    assert INCOMPLETE[missing] in shop.said()
    assert not list(shop.folder.glob("pack*"))


def test_a_robot_that_the_shipped_observations_do_not_fit_names_the_two_flags(shop: Shop) -> None:
    droid = write_random_checkpoint(shop.folder / "droid", small_policy(layout="droid"))
    words = ["quantize", str(droid), "--preset", "dit", "--out", str(shop.folder / "pack")]
    assert main(words) == 2
    message = shop.said()
    assert "--calib DIR" in message
    assert "--weights-only" in message
    assert main([*words, "--weights-only", "--rounding", "rtn"]) == 0
