"""Ways of rounding a layer's weights: what stands for GPTQ's functions, and what they are called in the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from common.calibrations import by_action_gradients, of_packed_inputs
from common.mixing import PolicyMixes
from common.preparations import Prepare
from common.rotations import with_learned_block
from torch import Tensor

from vlapack.methods import gptq
from vlapack.methods.gptq import HessianFactor, gptq_weight, hessian_factor
from vlapack.methods.round import choose_scale, round_weight

Round = Callable[..., tuple[Tensor, Tensor]]
Factor = Callable[[Tensor], HessianFactor]


def with_scales(weight: Tensor, factor: HessianFactor, scale: Tensor, *, lowest: int = -8, highest: int = 7) -> Tensor:
    """Round by GPTQ with given scales: `gptq_weight` as a plain loop over columns, integers [N, K] float."""
    order, lower = factor.order, factor.lower
    errors = weight.T.to(lower.dtype)[order].clone()
    integers = torch.empty_like(errors)
    step = scale.to(lower.dtype).flatten()
    for i in range(len(order) - 1, -1, -1):
        wanted = errors[i] + lower[i + 1 :, i] @ errors[i + 1 :]
        integers[i] = (wanted / step).round().clamp(lowest, highest)
        errors[i] -= integers[i] * step
    return integers[torch.argsort(order)].T


def loss(weight: Tensor, rounded: Tensor, hessian: Tensor) -> Tensor:
    """Return each row's e H eᵀ [N]."""
    error = (weight - rounded).to(hessian.dtype)
    return ((error @ hessian) * error).sum(1)


class BestRows:
    """Of each row of a weight [N, K] the integers and the scale with the least `loss` that were offered."""

    def __init__(self, weight: Tensor, scales: Tensor, hessian: Tensor) -> None:
        self._weight, self._hessian = weight, hessian
        self._least = torch.full((len(weight),), torch.inf, dtype=hessian.dtype)
        self.integers, self.scales = torch.zeros_like(weight), scales.clone()

    def offer(self, integers: Tensor, scales: Tensor) -> None:
        """Take over the rows that are better; integers [N, K], scales [N, 1]."""
        found = loss(self._weight, integers * scales, self._hessian)
        better = found < self._least
        self._least = torch.where(better, found, self._least)
        self.integers = torch.where(better[:, None], integers, self.integers)
        self.scales = torch.where(better[:, None], scales, self.scales)


def remembering(inputs: Tensor) -> HessianFactor:
    """Return `hessian_factor`'s, with H = xᵀx beside it."""
    found = hessian_factor(inputs)
    object.__setattr__(found, "hessian", inputs.T @ inputs)
    return found


def refitted(weight: Tensor, factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """GPTQ, then each row's scale by least squares in H's norm, then GPTQ again with it; of each row the best round."""
    assert group is None
    hessian, scale = factor.hessian, choose_scale(weight, bits, clip)  # type: ignore[attr-defined]
    best = BestRows(weight, scale, hessian)
    for _ in range(4):
        q = with_scales(weight, factor, scale)
        best.offer(q, scale)
        turned = q.to(hessian.dtype) @ hessian
        scale = ((turned * weight).sum(1) / (turned * q).sum(1).clamp_min(1e-30)).abs()[:, None].float()
        scale = torch.where(scale > 0, scale, best.scales)
    return best.integers.to(torch.int8), best.scales


def searched(weight: Tensor, factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """GPTQ at seven clips around the one of least squared error; of each row the one with the least e H eᵀ."""
    assert group is None
    hessian, base = factor.hessian, choose_scale(weight, bits, clip)  # type: ignore[attr-defined]
    best = BestRows(weight, base, hessian)
    for part in (1.0, 0.94, 0.88, 0.82, 1.06, 1.12, 1.18):
        best.offer(with_scales(weight, factor, base * part), base * part)
    return best.integers.to(torch.int8), best.scales


def asymmetric(weight: Tensor, factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """Sixteen levels with a zero point of their own per row; stored as 8 bits, which hold them exactly."""
    assert (bits, group) == (8, None)
    low, high = weight.amin(1, keepdim=True).clamp_max(0), weight.amax(1, keepdim=True).clamp_min(0)
    best = torch.full((len(weight), 1), torch.inf)
    scales, zeros = torch.ones(len(weight), 1), torch.zeros(len(weight), 1)
    for part in [i / 40 for i in range(20, 41)]:
        scale = ((high - low) * part / 15).clamp_min(1e-12)
        zero = (-low * part / scale).round().clamp(0, 15)
        q = (weight / scale + zero).round().clamp(0, 15) - zero
        found = (q * scale - weight).square().sum(1, keepdim=True)
        better = found < best
        best, scales, zeros = (torch.where(better, a, b) for a, b in ((found, best), (scale, scales), (zero, zeros)))
    integers = torch.empty_like(weight)
    for zero in zeros.unique():
        rows = (zeros == zero).flatten()
        integers[rows] = with_scales(
            weight[rows], factor, scales[rows], lowest=-int(zero), highest=15 - int(zero)
        ).float()
    return integers.to(torch.int8), scales


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


def nearest(weight: Tensor, _factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """Round to nearest in the same basis."""
    return round_weight(weight, bits, clip, group)


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
        prepare: makes what stands for `quantize.prepare`, for a policy and a seed.
    """

    note: str
    round: Round = gptq_weight
    factor: Factor = hessian_factor
    bits: int = 4
    steps: int | None = None
    prepare: Callable[[PolicyMixes, int], Prepare] | None = None

    @property
    def of_policies(self) -> bool:
        """Whether it is made for policies only."""
        return self.steps is not None or self.prepare is not None


WAYS: Mapping[str, Way] = {
    "rtn, no rotation": Way("round-to-nearest as other tools do it: largest weight as the range, no transform"),
    "hadamard + rtn": Way("round-to-nearest after the same transform", round=nearest),
    "gptq": Way("the default"),
    "scales refitted": Way(str(refitted.__doc__), refitted, remembering),
    "clip searched": Way(str(searched.__doc__), searched, remembering),
    "asymmetric": Way(f"{asymmetric.__doc__} Costs a zero point a row and Σq_x", asymmetric, bits=8),
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
    "inputs of packed layers": Way(str(of_packed_inputs.__doc__), prepare=of_packed_inputs),
    "action gradients": Way(str(by_action_gradients.__doc__), prepare=by_action_gradients),
    "rotation learned": Way(
        f"{with_learned_block.__doc__} Costs 64 products a channel for the 6 sums of the engines' Hadamard",
        prepare=lambda _target, _seed: with_learned_block,
    ),
}


@contextmanager
def by(way: Way) -> Iterator[None]:
    """Let layers be rounded this way."""
    with ExitStack() as stack:
        stack.enter_context(patch("vlapack.quantize.groups.gptq_weight", way.round))
        stack.enter_context(patch("vlapack.quantize.groups.hessian_factor", way.factor))
        yield
