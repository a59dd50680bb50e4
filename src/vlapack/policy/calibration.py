"""What a float policy's layers see while it looks at recorded observations: the statistics that a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlapack.calibrate import Statistics, calibrate, measure_reach
from vlapack.checkpoints.base import Checkpoint
from vlapack.console import progress
from vlapack.policy.policy import Policy
from vlapack.quantize import Group, Read, build_transform
from vlapack.recipe.recipe import Recipe


def calibrate_policy(
    checkpoint: Checkpoint,
    read: Read,
    groups: Sequence[Group],
    recipe: Recipe,
    observations: Sequence[Mapping[str, Any]],
) -> Statistics:
    """Run one action chunk per observation and measure the input of every group of layers that runs.

    Static scales take a second pass, since the transforms whose outputs they measure follow from the first. The noise
    comes from the recipe's seed, the same in both passes.

    Raises:
        InputError: an observation that the policy cannot use, or a layer that none of them reaches.
    """
    policy = Policy.from_checkpoint(checkpoint)
    forward = _chunk(policy)
    running = [group for group in groups if group[0].executed]
    first = {group[0].name: group for group in running}
    seen = calibrate(policy.model, list(first), forward, _draws(policy, recipe, observations, "calibrating"))
    if recipe.act_scale != "static":
        return seen
    transforms = {}
    for name, group in first.items():
        weights = [read(f"{layer.name}.weight").float() for layer in group]
        transforms[name] = build_transform(group, weights, recipe, seen.absmax[name]).inputs
    draws = _draws(policy, recipe, observations, "measuring static scales")
    reach = measure_reach(policy.model, transforms, recipe.act_percentile, forward, draws)
    of_layer = {layer.name: reach[name] for name, group in first.items() for layer in group}
    return Statistics(absmax=seen.absmax, reach=of_layer, tokens=seen.tokens)


def _chunk(policy: Policy) -> Callable[[tuple[Mapping[str, Any], Tensor]], Tensor]:
    def forward(batch: tuple[Mapping[str, Any], Tensor]) -> Tensor:
        observation, noise = batch
        return policy.model.sample_actions(*policy.observe(observation).network, noise)

    return forward


def _draws(
    policy: Policy, recipe: Recipe, observations: Sequence[Mapping[str, Any]], title: str
) -> Iterator[tuple[Mapping[str, Any], Tensor]]:
    """Each observation with its noise [1, horizon, action_dim]."""
    architecture = policy.config.architecture
    generator = torch.Generator().manual_seed(recipe.seed)
    with progress(title, len(observations)) as advance:
        for observation in observations:
            shape = (1, architecture.action_horizon, architecture.action_dim)
            yield observation, torch.randn(shape, generator=generator)
            advance()
