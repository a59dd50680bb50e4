"""What stands for `gptq_weight` in a way of rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlapack.methods.gptq import HessianFactor, hessian_factor
from vlapack.methods.round import choose_scale, round_weight


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


def nearest(weight: Tensor, _factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """Round to nearest in the same basis."""
    return round_weight(weight, bits, clip, group)
