"""Ways of rounding a layer's weights, and what they are called in the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from common.calibrations import by_action_gradients, of_packed_inputs
from common.lowrank import corrected
from common.mixing import PolicyMixes
from common.preparations import Prepare
from common.rotations import with_learned_block
from common.rounds import asymmetric, nearest, refitted, remembering, searched
from torch import Tensor

from vlapack.methods import gptq
from vlapack.methods.gptq import HessianFactor, gptq_weight, hessian_factor
from vlapack.quantize.groups import prepare

Round = Callable[..., tuple[Tensor, Tensor]]
Factor = Callable[[Tensor], HessianFactor]


def ordered(choose: Callable[[Tensor, Tensor], Tensor]) -> Factor:
    """Return `hessian_factor` with another order of columns; `choose` gets H's energies and inputs."""

    def factor(inputs: Tensor) -> HessianFactor:
        order = choose(inputs.square().sum(0), inputs)
        with patch.object(gptq.torch, "argsort", lambda *_a, **_k: order.flip(0)):
            return hessian_factor(inputs)

    return factor


def damped(amount: float) -> Factor:
    """Return `hessian_factor` with another damping."""

    def factor(inputs: Tensor) -> HessianFactor:
        with patch.object(gptq, "DAMPING", (amount, *gptq.DAMPING)):
            return hessian_factor(inputs)

    return factor


def centred(inputs: Tensor) -> HessianFactor:
    """Count the mean over the tokens a tenth: it is most of the energy, and tells no token from another."""
    mean = inputs.mean(0)
    return hessian_factor(inputs - 0.9 * mean)


def evened(inputs: Tensor) -> HessianFactor:
    """Let every token count alike, whatever its size."""
    return hessian_factor(inputs / inputs.norm(dim=1, keepdim=True).clamp_min(1e-12))


@dataclass(frozen=True)
class Way:
    """How weights are rounded.

    Attributes:
        note: what it is.
        round: stands for `gptq_weight`.
        factor: stands for `hessian_factor`.
        bits: how it is stored.
        steps: how many observations calibrate; None: the recipe's number.
        prepare: stands for `quantize.prepare`.
        prepare_for: makes what stands for it, for a policy and a seed.
    """

    note: str
    round: Round = gptq_weight
    factor: Factor = hessian_factor
    bits: int = 4
    steps: int | None = None
    prepare: Prepare = prepare
    prepare_for: Callable[[PolicyMixes, int], Prepare] | None = None

    @property
    def of_policies(self) -> bool:
        """Whether it is made for policies only."""
        return self.steps is not None or self.prepare_for is not None


WAYS: Mapping[str, Way] = {
    "rtn, no rotation": Way("round-to-nearest as other tools do it: largest weight as the range, no transform"),
    "hadamard + rtn": Way("round-to-nearest after the same transform", round=nearest),
    "gptq": Way("the default"),
    "scales refitted": Way(str(refitted.__doc__), refitted, remembering),
    "clip searched": Way(str(searched.__doc__), searched, remembering),
    "asymmetric": Way(f"{asymmetric.__doc__} Costs a zero point a row and Σq_x", asymmetric, bits=8),
    "low rank": Way(str(corrected.__doc__), corrected, remembering, bits=8),
    "order: as they stand": Way("no order of columns", factor=ordered(lambda e, _x: torch.arange(len(e)))),
    "order: least energy first": Way(
        "the opposite order", factor=ordered(lambda e, _x: torch.argsort(e, descending=True))
    ),
    "damping 0.001": Way("a tenth of the default", factor=damped(1e-3)),
    "damping 0.1": Way("ten times the default", factor=damped(0.1)),
    "mean counted a tenth": Way(str(centred.__doc__), factor=centred),
    "tokens counted alike": Way(str(evened.__doc__), factor=evened),
    "half the observations": Way("16 instead of 32", steps=16),
    "twice the observations": Way("64 instead of 32", steps=64),
    "inputs of packed layers": Way(str(of_packed_inputs.__doc__), prepare_for=of_packed_inputs),
    "action gradients": Way(str(by_action_gradients.__doc__), prepare_for=by_action_gradients),
    "rotation learned": Way(
        f"{with_learned_block.__doc__} Costs 64 products a channel for the 6 sums of the engines' Hadamard",
        prepare=with_learned_block,
    ),
}


@contextmanager
def by(way: Way) -> Iterator[None]:
    """Let layers be rounded this way."""
    with ExitStack() as stack:
        stack.enter_context(patch("vlapack.quantize.groups.gptq_weight", way.round))
        stack.enter_context(patch("vlapack.quantize.groups.hessian_factor", way.factor))
        yield
