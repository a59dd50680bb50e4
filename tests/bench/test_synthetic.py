"""Random weights stand for real ones: the same layers, the same bytes, and a chunk that is finite."""

from __future__ import annotations

import numpy as np
import pytest
from small import small_policy

from vlapack.bench.synthetic import synthetic_policy
from vlapack.commands.inspect import open_network
from vlapack.linear import PackedLinear
from vlapack.parent import layers_of
from vlapack.policy.layouts import layout_of
from vlapack.policy.policy import Policy
from vlapack.recipe.environment import GUIDE
from vlapack.recipe.presets import preset

RECIPES = {"float": None, "full": preset("full"), "everything": preset("everything"), "guide": GUIDE}


@pytest.mark.parametrize("name", RECIPES)
def test_it_acts_and_holds_what_a_policy_of_its_kind_does(name: str, random_checkpoint: str) -> None:
    recipe, config = RECIPES[name], small_policy()
    policy = synthetic_policy(config, recipe)
    chunk = policy.infer(layout_of(config).example())["actions"]
    assert np.isfinite(chunk).all()
    if recipe is None:
        assert policy.held_bytes() == Policy.from_pretrained(random_checkpoint).held_bytes()
        return
    packed = {name for name, module in policy.model.named_modules() if isinstance(module, PackedLinear)}
    assert packed <= {layer.name for layer in layers_of(config.architecture, recipe) if layer.executed}
    _, sizes = open_network(str(random_checkpoint), None).pack(recipe)
    assert policy.held_bytes() == pytest.approx(sizes.held, rel=0.02)
