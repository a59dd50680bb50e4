"""Captured runs: the same input gives the same chunk, whatever was replayed between, and the eager one's."""

from __future__ import annotations

import torch
from torch import Tensor

from gpu.checks import Place, WrongError, near, same
from gpu.inputs import DRY, chunk_inputs
from vlapack.bench.network import synthetic_network
from vlapack.pi0.config import CONFIGS
from vlapack.pi0.graphs import Runner
from vlapack.recipe.presets import preset

NEAR = 2e-3
"""Of a float network's actions in fp32, which another order of its sums moves."""


def replayed(place: Place, name: str | None) -> None:
    """A chunk, another one, and the first again: nothing of the other may be left in a buffer."""
    config = DRY if place.small else CONFIGS["tiny"]
    recipe = None if name is None else preset(name)
    model = synthetic_network(config, recipe, dtype=torch.float32, device=place.device)
    acting = Runner(model, place.card.capturing())
    first, other = (chunk_inputs(config, cameras=2, prompt=16, seed=seed) for seed in (1, 2))

    def chunk(inputs: tuple[Tensor, ...]) -> Tensor:
        actions = acting.sample_actions(*inputs)
        if not actions.isfinite().all():
            raise WrongError(f"actions that are not finite ({acting.how})")
        return actions

    once, between, again = (chunk(inputs) for inputs in (first, other, first))
    same(again, once, f"the same chunk again ({acting.how})")
    if torch.equal(between, once):
        raise WrongError(f"another observation gave the same actions ({acting.how})")
    if recipe is None:
        eager = model.sample_actions(first[0].float() / 255.0 * 2.0 - 1.0, *first[1:])
        near(once, eager, NEAR * float(eager.abs().max()), f"captured and eager ({acting.how})")


CHECKS = {
    "a float chunk, replayed": lambda place: replayed(place, None),
    "a packed chunk, replayed": lambda place: replayed(place, "full"),
}
