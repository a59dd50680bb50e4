"""A pack's layers, put one by one in the place of their float originals, are the pack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import random_observations

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.diagnose.given import recipe_of
from vlapack.diagnose.unfolded import UnfoldedPack
from vlapack.packing.make import make_pack
from vlapack.packing.parent import Parent
from vlapack.pi0.savings import Savings
from vlapack.policy.policy import Policy
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

FULL = replace(preset("full-w4"), calib_steps=4)
RECIPES = {
    "full": FULL,
    "smooth": replace(FULL, smooth=0.15),
    "guide": replace(FULL, method="guide", rotation="svd", row_rot="restore", shared_block=False, act_scale="static"),
    "greedy": replace(FULL, rotation="greedy", order="rotate_permute_rotate"),
    "groups": replace(FULL, group_size=32, block=16),
    "everything": replace(preset("everything"), calib_steps=4),
    "smoothed by packed adaRMS": replace(preset("everything"), calib_steps=4, smooth=0.15),
    "balanced": replace(FULL, atm=True, ohb=True),
    "balanced in float attention": replace(preset("quantvla"), calib_steps=4),
}


def packed(parent: Path, recipe: Recipe, out: Path) -> PackedCheckpoint:
    make_pack(open_checkpoint(parent), recipe, out, random_observations(4))
    opened = open_checkpoint(out)
    assert isinstance(opened, PackedCheckpoint)
    return opened


@pytest.mark.parametrize("name", RECIPES)
def test_the_layers_in_the_float_network_act_like_the_pack_and_were_rounded_as_it_says(
    name: str, random_checkpoint: Path, tmp_path: Path
) -> None:
    """Activations are not rounded here, so that nothing is amplified, and a step that is not undone is seen."""
    recipe = replace(RECIPES[name], act_bits=16, act_scale="per_token")
    pack, parent = packed(random_checkpoint, recipe, tmp_path / "pack"), Parent(open_checkpoint(random_checkpoint))
    unfolded = UnfoldedPack(pack, parent, recipe_of(pack))
    assert set(unfolded.layers) == {name for group in pack.groups if group.executed for name in group.layers}
    whole = Savings().without("time_table")  # its layers are replaced, too
    policy, theirs = Policy.from_checkpoint(parent.checkpoint, savings=whole), Policy.from_checkpoint(pack)
    observation, noise = random_observations(1, seed=9)[0], torch.randn(policy.noise_shape)
    expected = policy.infer(observation, noise=noise)["actions"]
    wanted = theirs.infer(observation, noise=noise)["actions"]
    for module, packed_layer in unfolded.modules.items():
        policy.model.set_submodule(module, packed_layer)
    found = policy.infer(observation, noise=noise)["actions"]
    apart = np.abs(wanted - expected).max()
    assert apart > 0
    assert np.abs(found - wanted).max() < 0.02 * apart
    errors = {layer: unfolded.weights.weight_error(layer) for layer in unfolded.layers}
    noted = pack.document["measured"]["weight_error"]
    if noted["worst_layer"] in errors:  # and not one that never runs
        assert errors[noted["worst_layer"]] == pytest.approx(noted["max"], rel=1e-3)
    assert max(errors.values()) <= noted["max"] * 1.001
