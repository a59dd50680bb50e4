"""What a float policy's layers see while it looks at recorded observations, as the walk wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vlapack.calibrate import collect
from vlapack.console import progress
from vlapack.parent import Parent
from vlapack.policy.policy import Policy
from vlapack.quantize import Block, Group
from vlapack.recipe.recipe import Recipe


def stream(
    parent: Parent,
    groups: Sequence[Group],
    recipe: Recipe,
    observations: Sequence[Mapping[str, Any]],
    *,
    finished: Callable[[Group], bool] = lambda group: False,
) -> Iterator[Block]:
    """Run one action chunk per observation; yield the groups that are not finished, with what their layers saw.

    The noise comes from the recipe's seed.

    Raises:
        InputError: an observation that the policy cannot use, or a layer that none of them reaches.
    """
    todo = [group for group in groups if not finished(group)]
    policy = Policy.from_checkpoint(parent.checkpoint)

    def forward(batch: tuple[Mapping[str, Any], Tensor]) -> Tensor:
        observation, noise = batch
        return policy.model.sample_actions(*policy.observe(observation).network, noise)

    running = [group[0].name for group in todo if group[0].executed]
    yield todo, collect(policy.model, running, forward, _draws(policy, recipe, observations), seed=recipe.seed)


def _draws(
    policy: Policy, recipe: Recipe, observations: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], Tensor]]:
    """Each observation with its noise [1, horizon, action_dim]."""
    architecture = policy.config.architecture
    generator = torch.Generator().manual_seed(recipe.seed)
    with progress("calibrating", len(observations)) as advance:
        for observation in observations:
            shape = (1, architecture.action_horizon, architecture.action_dim)
            yield observation, torch.randn(shape, generator=generator)
            advance()
