"""A mix put together from packs must be the pack that its recipe makes, or presets are chosen by another network."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from common.mixing import PolicyMixes, chosen

from vlapack.linear import PackedLinear
from vlapack.packing.make import make_pack
from vlapack.policy.policy import Policy
from vlapack.recipe.choice import Choice

OVERRIDES = ((r"language_model\..*self_attn\.", 8), (r"gemma_expert\..*mlp\.", Choice(4, 32)))


def test_a_mix_is_the_pack_of_its_recipe(random_checkpoint: Path, observation_folder: Path, tmp_path: Path) -> None:
    target = PolicyMixes("small", str(random_checkpoint), observation_folder, observation_folder)
    recipe = replace(target.recipe, calib_steps=2, overrides=OVERRIDES)
    target.recipe = replace(recipe, overrides=())
    found = target.measure(chosen(target.layers, OVERRIDES), seed=0)
    made = make_pack(target.checkpoint, recipe, tmp_path / "pack", target.observations(recipe))
    policy = Policy.from_pretrained(made.pack)
    assert target._seeded is not None
    mixed = target._seeded[1].network
    for name, layer in policy.model.named_modules():
        if isinstance(layer, PackedLinear):
            for key, tensor in layer.state_dict().items():
                assert torch.equal(mixed.get_submodule(name).state_dict()[key], tensor), f"{name}.{key}"
    assert found == target.differences(policy)
