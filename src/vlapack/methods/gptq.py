"""Rounding a weight column by column, each column's error made up for by those that are still to come (GPTQ).

The error that counts is not that of the weights but of the outputs, tr((W - W') H (W - W')ᵀ) with H = Σ xᵀx over the
inputs that the layer will really see: transformed, and rounded as they will be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.round import choose_scale, integer_range

DAMPING = 0.01
"""What is added to H's diagonal, as a part of its mean: the paper's 1 %."""
COLUMNS_AT_ONCE = 128
"""Columns whose error is spread at once over the later ones; it changes the speed, and the result only by rounding."""
ROWS_AT_ONCE = 4096
"""Output channels in work at a time. They do not depend on one another, and their copy stays small."""


def gptq_weight(
    weight: Tensor,
    hessian: Tensor,
    bits: int,
    group_size: int | None = None,
    clip: str = "mse",
    *,
    damping: float = DAMPING,
) -> tuple[Tensor, Tensor]:
    """Round `weight` to integers by GPTQ (Frantar et al., ICLR 2023, arXiv 2210.17323, Algorithm 1).

    Columns go in the order of H's diagonal, largest first. The scales are chosen before, as round-to-nearest chooses
    them, for groups of *neighbouring* columns ("static groups"), so that the integers keep the weight's own order. With
    H⁻¹ = UᵀU, U upper triangular and everything in that order, column i is rounded, e = (w_i - s q_i) / U_ii, and each
    later column j becomes w_j - e U_ij.

    A channel whose inputs were all zero has no say in H: its own weights are rounded to the nearest.

    Args:
        weight: [N, K], floating.
        hessian: Σ xᵀx [K, K] over the layer's inputs x (any positive factor cancels out), fp32 or float64. The work is
            done in its dtype; two matrices of its size are held beside it.
        bits: 4 or 8.
        group_size: Input channels per scale, or None: one scale per output channel.
        clip: `mse` or `absmax`; see `round_weight`.
        damping: What is added to the diagonal, as a part of its mean.

    Returns:
        q [N, K] int8 and the scales, exactly of the kind that `round_weight` returns.

    Raises:
        InputError: Shapes that do not fit, NaN or infinite values, a negative diagonal, or a Hessian that is not
            positive definite even when damped.
    """
    scale = choose_scale(weight, bits, clip, group_size)
    channels = weight.shape[1]
    order, factor = _inverse_factor(hessian, channels, damping)
    groups = torch.zeros_like(order) if group_size is None else order // group_size
    quantized = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    pieces = (torch.split(part, ROWS_AT_ONCE) for part in (weight, scale, quantized))
    for rows, steps, q_out in zip(*pieces, strict=True):
        left = rows[:, order].to(factor.dtype)
        integers = torch.empty(left.shape, dtype=torch.int8, device=left.device)
        for start in range(0, channels, COLUMNS_AT_ONCE):
            stop = min(start + COLUMNS_AT_ONCE, channels)
            columns = left[:, start:stop]
            errors = torch.empty_like(columns)
            for i in range(stop - start):
                row = factor[start + i, start:stop]
                step = steps[:, groups[start + i]].to(factor.dtype)
                q = (columns[:, i] / step).round_().clamp_(*integer_range(bits))
                integers[:, start + i] = q.to(torch.int8)
                errors[:, i] = (columns[:, i] - q * step) / row[i]
                columns[:, i + 1 :] -= torch.outer(errors[:, i], row[i + 1 :])
            left[:, stop:] -= errors @ factor[start:stop, stop:]
        q_out[:, order] = integers
    return quantized, scale


def _inverse_factor(hessian: Tensor, channels: int, damping: float) -> tuple[Tensor, Tensor]:
    """Return the order of the columns [K], and U [K, K] upper triangular with (damped, ordered H)⁻¹ = UᵀU.

    H itself is never inverted: with the rows and columns of H in reverse, reversed H = M Mᵀ by Cholesky, and U is the
    inverse of M in reverse, which is triangular too.
    """
    if hessian.shape != (channels, channels):
        raise InputError(
            f"the Hessian of {channels} channels must be [{channels}, {channels}], not {list(hessian.shape)}"
        )
    diagonal = hessian.diagonal()
    if not hessian.isfinite().all() or (diagonal < 0).any():
        raise InputError("the Hessian holds NaN or infinite values or a negative diagonal; look at the calibration")
    alive = diagonal > 0
    mean = diagonal[alive].mean() if alive.any() else diagonal.new_ones(())
    order = torch.argsort(diagonal, descending=True, stable=True)
    backwards = order.flip(0)
    damped = hessian[backwards][:, backwards]
    damped.diagonal().add_(torch.where(alive[backwards], damping * mean, mean))
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise InputError(
            f"the Hessian, damped by {damping} of its mean diagonal, is not positive definite: calibrate with more "
            "observations, or damp it more"
        )
    del damped
    unit = torch.eye(channels, dtype=hessian.dtype, device=hessian.device)
    return order, torch.linalg.solve_triangular(lower, unit, upper=False).flip(0, 1)
