"""Ways of rounding that stay out of the library: each must do what its row says, or the row means nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from common.calibrations import ALL_LAYERS, of_packed_inputs, packed_inputs, squared_gradients, weighted
from common.mixing import PolicyMixes
from common.rotations import expected, learned_block, lost, with_learned_block

from vlapack import Policy
from vlapack.methods.gptq import hessian_factor
from vlapack.methods.rotate import hadamard
from vlapack.ops.reference import quantize_activation
from vlapack.plan.select import select
from vlapack.plan.selected import Group, groups
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import Prepared, Read, prepare
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe
from vlapack.tune.sensitivity import robot_units

TOKENS = torch.randn(50, 64, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 3, 64)
RECIPE = replace(preset("full"), scope="", include=".", overrides=())
WEIGHT = torch.randn(32, 64, generator=torch.Generator().manual_seed(2))
INPUTS = LayerInputs(TOKENS.abs().amax(0), TOKENS, len(TOKENS))


@pytest.fixture
def target(random_checkpoint: Path, observation_folder: Path) -> PolicyMixes:
    found = PolicyMixes("small", str(random_checkpoint), observation_folder, observation_folder)
    found.recipe = replace(found.recipe, calib_steps=2)
    return found


def one_layer() -> Group:
    (group,) = groups(select({"one": (32, 64)}, RECIPE), RECIPE)
    return group


def read(_name: str) -> Tensor:
    return WEIGHT


def rounded(found: Prepared, tokens: Tensor) -> Tensor:
    q, scale = quantize_activation(found.transform.inputs(tokens), scale=None, bits=8)
    return q * scale


def test_gradients_that_are_all_alike_leave_the_hessian_as_it_is() -> None:
    plain = prepare(read, one_layer(), [WEIGHT], RECIPE, INPUTS)
    alike = weighted({"one": torch.full((50, 1), 1e-6)})(read, one_layer(), [WEIGHT], RECIPE, INPUTS)
    assert plain.factor is not None
    assert alike.factor is not None
    assert torch.equal(plain.factor.order, alike.factor.order)
    torch.testing.assert_close(plain.factor.lower, alike.factor.lower)


def test_a_token_counts_by_its_squared_gradient() -> None:
    squares = torch.rand(50, 1, generator=torch.Generator().manual_seed(3))
    found = weighted({"one": squares})(read, one_layer(), [WEIGHT], RECIPE, INPUTS)
    wanted = hessian_factor(rounded(found, TOKENS) * squares.sqrt())
    assert found.factor is not None
    assert torch.equal(found.factor.order, wanted.order)
    torch.testing.assert_close(found.factor.lower, wanted.lower, rtol=1e-3, atol=1e-4)


def test_gradients_are_those_of_the_chunk_in_the_robots_units(target: PolicyMixes) -> None:
    policy = Policy.from_checkpoint(target.checkpoint, savings=ALL_LAYERS)
    observations = target.observations(target.recipe)
    squares = squared_gradients(policy, ["action_out_proj"], observations, seed=0)["action_out_proj"]
    # The last of the Euler steps adds its velocity to the chunk, over the steps' number: nothing stands between.
    horizon, steps = policy.config.architecture.action_horizon, policy.config.architecture.num_steps
    unit = robot_units(policy, policy.observe(observations[-1]))
    torch.testing.assert_close(squares[-horizon:, 0], (unit[0] / steps).square().sum(1))


def test_the_hessian_is_that_of_what_packed_layers_leave(target: PolicyMixes, tmp_path: Path) -> None:
    recipe = replace(target.recipe, seed=3)
    target.pack(recipe, 3, tmp_path / "pack")
    rows = packed_inputs(Policy.from_pretrained(tmp_path / "pack", savings=ALL_LAYERS), target.observations(recipe), 3)
    of_packed, apart = of_packed_inputs(target, 3), {}

    def watched(
        read: Read, group: Group, weights: Sequence[Tensor], recipe: Recipe, inputs: LayerInputs | None
    ) -> Prepared:
        found = of_packed(read, group, weights, recipe, inputs)
        if inputs is not None and found.factor is not None:
            assert torch.equal(found.factor.lower, hessian_factor(rows[group[0].name]).lower)
            of_float = rounded(found, inputs.sample.float())
            apart[group[0].name] = float((rows[group[0].name] - of_float).norm() / of_float.norm())
        return found

    target.forget(watched)
    target.pack(recipe, 3, tmp_path / "again")
    first = next(name for name in apart if "vision_tower" in name and "layers.0.self_attn" in name)
    # The same tokens in the same order, but for bf16: nothing is packed before it.
    assert apart[first] < 0.02
    assert max(apart.values()) > 0.1


def test_a_learned_block_turns_and_is_expected_to_lose_less() -> None:
    hessian = TOKENS.T @ TOKENS
    start = hadamard(64).float()
    block = learned_block(WEIGHT, hessian, start, steps=30)
    torch.testing.assert_close(block[0] @ block[0].T, torch.eye(64), atol=1e-4, rtol=0)
    assert expected(WEIGHT, hessian, block[0]) < expected(WEIGHT, hessian, start[0]) - 0.01


def test_a_learned_block_is_kept_where_it_loses_less() -> None:
    plain = prepare(read, one_layer(), [WEIGHT], RECIPE, INPUTS)
    found = with_learned_block(read, one_layer(), [WEIGHT], RECIPE, INPUTS)
    assert lost(found, [WEIGHT], INPUTS, 4) <= lost(plain, [WEIGHT], INPUTS, 4)
