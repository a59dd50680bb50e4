"""Random weights stand for real ones: a finite chunk, and tensor by tensor what a policy of its kind holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import random_observations, small_policy

from vlapack.bench.synthetic import synthetic_policy
from vlapack.checkpoints import open_checkpoint
from vlapack.packing.make import make_pack
from vlapack.pi0.names import EMBEDDING
from vlapack.policy.policy import Policy
from vlapack.recipe.environment import GUIDE
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe
from vlapack.robots.layouts import layout_of

RECIPES = {
    "float": None,
    "full": preset("full"),
    "everything": preset("everything"),
    "guide": replace(GUIDE, scope="paligemma_with_expert."),
}


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe | None:
    return RECIPES[request.param]


def test_it_acts(recipe: Recipe | None) -> None:
    config = small_policy()
    assert np.isfinite(synthetic_policy(config, recipe).infer(layout_of(config).example())["actions"]).all()


def test_it_holds_what_a_policy_of_its_kind_does(
    recipe: Recipe | None, random_checkpoint: Path, tmp_path: Path
) -> None:
    folder = random_checkpoint
    if recipe is not None:
        folder = tmp_path / "pack"
        make_pack(open_checkpoint(random_checkpoint), recipe, folder, random_observations(1))
    assert held(synthetic_policy(small_policy(), recipe)) == held(Policy.from_pretrained(folder))


def held(policy: Policy) -> dict[str, tuple[torch.Size, torch.dtype, int]]:
    """Shape, dtype and bytes of all tensors but the embedding, of which one row is in memory here, and none there."""
    model, rows = policy.model, EMBEDDING.removesuffix("weight")
    return {
        name: (tensor.shape, tensor.dtype, tensor.untyped_storage().nbytes())
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if not tensor.is_meta and not name.startswith(rows)
    }
