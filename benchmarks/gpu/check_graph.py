"""Captured runs: the same input gives the same chunk, whatever was replayed between, and the eager one's."""

from __future__ import annotations

from functools import partial

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
ROUNDED = 0.1
"""Of its actions in bf16 against fp32: far more than two layers round, far less than a wrong mask moves."""


def replayed(place: Place, name: str | None, dtype: torch.dtype) -> None:
    """A chunk, a larger one, and the first again: nothing of the other may be left in a buffer or a table."""
    config = DRY if place.small else CONFIGS["tiny"]
    recipe = None if name is None else preset(name)
    model = synthetic_network(config, recipe, dtype=dtype, device=place.device)
    acting = Runner(model, place.card.capturing())
    first = chunk_inputs(config, cameras=1, prompt=13, seed=1)
    other = chunk_inputs(config, cameras=2, prompt=config.max_token_len - 3, seed=2)

    def chunk(inputs: tuple[Tensor, ...]) -> Tensor:
        actions = acting.sample_actions(*inputs)
        if not actions.isfinite().all():
            raise WrongError(f"actions that are not finite ({acting.how})")
        return actions

    once, between, again = (chunk(inputs) for inputs in (first, other, first))
    same(again, once, f"the same chunk again ({acting.how})")
    if torch.equal(between, once):
        raise WrongError(f"another observation gave the same actions ({acting.how})")
    if recipe is not None:
        return
    exact = model if dtype == torch.float32 else synthetic_network(config, None, device=place.device)
    for inputs, found in ((first, once), (other, between)):
        eager = exact.sample_actions(*inputs)
        bound = NEAR if dtype == torch.float32 else ROUNDED
        near(found, eager, bound * float(eager.abs().max()), f"captured {dtype} and eager fp32 ({acting.how})")


CHECKS = {
    f"a {'float' if name is None else 'packed'} chunk in {said}, replayed": partial(replayed, name=name, dtype=dtype)
    for said, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    for name in (None, "full")
}
