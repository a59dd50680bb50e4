"""A low-rank term beside a layer's 4-bit weights, for as many bytes as `full`'s mix of bits costs on π0.5."""

from __future__ import annotations

from typing import Any

import torch
from common.rounds import with_scales
from torch import Tensor

from vlapack.methods.gptq import DAMPING, HessianFactor
from vlapack.methods.round import choose_scale, round_weight

SHARE = 0.07
"""Bytes of the two thin matrices, of 8 bits each, over those of the 4-bit weight."""
ROUNDS = 3


def corrected(weight: Tensor, factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """GPTQ of what a low-rank term leaves, and that term of what GPTQ leaves, three times; 7 % more bytes.

    The sum is stored at 8 bits, whose own error is a sixteenth: what two products would give is measured without them.
    """
    assert (bits, group) == (8, None)
    hessian = factor.hessian  # type: ignore[attr-defined]
    rows, columns = weight.shape
    rank = max(1, round(SHARE * rows * columns / 2 / (rows + columns)))
    mean = hessian.diagonal().mean()
    root = torch.linalg.cholesky(hessian + DAMPING[0] * mean * torch.eye(columns, dtype=hessian.dtype))
    scale = choose_scale(weight, 4, clip)
    term = torch.zeros_like(weight)
    sums = weight
    least = torch.inf
    for _ in range(ROUNDS):
        scale = choose_scale(weight - term, 4, clip)
        rounded = with_scales(weight - term, factor, scale) * scale
        left = (weight - rounded).to(hessian.dtype)
        u, s, v = torch.linalg.svd(left @ root, full_matrices=False)
        thin = (u[:, :rank] * s[:rank]) @ v[:rank]
        term = torch.linalg.solve_triangular(root, thin, upper=False, left=False).to(weight.dtype)
        found = float((left @ root - thin).square().sum())
        if found < least:
            least, sums = found, rounded + term
    return round_weight(sums, 8, "absmax")
