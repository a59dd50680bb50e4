"""Rounding a weight column by column, each column's error made up for by those that are still to come (GPTQ).

The error that counts is not that of the weights but of the outputs, tr((W - W') H (W - W')ᵀ) with H = Σ xᵀx over the
inputs that the layer will really see: transformed, and rounded as they will be. What GPTQ needs of H is a triangular
factor; it depends on the inputs alone, so linears that share an input share it.

Sources: GPTQ (Frantar et al., ICLR 2023, arXiv 2210.17323, section 4, whose three steps are one fixed order of columns
for all rows, lazy updates in batches, and a Cholesky factor) and LDLQ (Chee et al., NeurIPS 2023, arXiv 2307.13304,
section 3; its Theorem 6 says that the two round alike).

What is in memory for the largest layer of π0.5, the language model's down_proj (K = 16384 inputs, N = 2048 outputs), in
fp32: H and then its factor in the same place, K² = 1 GiB; beside them the sample of inputs, at most 8192 x K = 512 MiB,
64 MiB of it in the columns' order, and as much of H; later the factor and the weight's columns, K x N = 128 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.precision import full_precision
from vlapack.methods.product import add_product
from vlapack.methods.round import choose_scale, integer_range
from vlapack.methods.threads import threads

DAMPING = (0.01, 0.1, 1.0)
"""What is added to H's diagonal, as a part of its mean: the paper's 1 %, or as much more as Cholesky needs."""
COLUMNS_AT_ONCE = 128
"""Columns that are corrected by one matrix product for all that was rounded before them (the paper's B, its step 2).

One by one, each column would read every error before it by itself: K products of a matrix and a vector, bound by
memory. So only columns of one block correct each other that way, and the block's [128, rows] stay in a cache. The size
changes the speed, and the result only by rounding.
"""
ROWS_AT_ONCE = 4096
"""Output channels in work at a time. They do not depend on one another. For 2048 inputs their copy is 32 MiB, and a
block of columns 2 MiB."""
ROWS_AT_ONCE_ON_GPUS = 16384
"""There a column takes as long as it takes to start its kernels, however many rows it has."""
TOKENS_AT_ONCE = 1024
"""Inputs added to H at a time: the copy in the columns' order is 1024 x K."""
COLUMNS_OF_TRIANGLE = 1024
"""Columns of H that are computed, and factored, at once, from their diagonal block down. For K = 16384 that is 53 % of
the square (136 of 256 blocks), for K = 2048 75 %; the rest is the same by symmetry and is never read."""
WORTH_TWO_THREADS = 2048
"""Inputs from which on two threads factor H, on machines of any size. Below it one takes at most a third longer. Two
wait for each other many times: where something else has the cores, 192 inputs took them 280 times as long."""


@dataclass(frozen=True)
class HessianFactor:
    """What GPTQ needs to know of a layer's inputs x: the damped H = Σ xᵀx = U D Uᵀ in the columns' order."""

    order: Tensor
    """The columns by their energy in H, smallest first [K] int64: they are rounded from the last to the first."""
    lower: Tensor
    """U [K, K], lower triangular, ones on its diagonal."""


@full_precision()
def hessian_factor(inputs: Tensor) -> HessianFactor:
    """Factor H = Σ xᵀx, damped.

    The paper factors H⁻¹, whose triangular factor tells how the error of a column changes the columns after it. LDLQ
    asks the other way around: what must a column make up for, of the errors made so far? H's own factor tells that, if
    the columns are rounded from its last to its first. Both round the same numbers to the same integers (Chee et al.,
    Theorem 6). So no inverse is computed, and beside the inputs and this one matrix nothing of their size is held.

    The column with the most energy is rounded first, while every other can still make up for its error. Hence it stands
    last here.

    A channel whose inputs were all zero has no say in H: its weights will be rounded to the nearest.

    Args:
        inputs: x [T, K], transformed and rounded as they will be when the layer runs; fp32 or float64, which is also
            the dtype of the work. T may be less than K.

    Raises:
        InputError: there are none, or one is NaN, infinite, or too large for its square to be finite.
    """
    tokens, channels = inputs.shape
    energy = torch.linalg.vector_norm(inputs, dim=0).square() if tokens else torch.full((channels,), torch.nan)
    if not energy.isfinite().all():
        what = "are NaN, infinite or too large" if tokens else "were never seen"
        raise InputError(f"cannot round by GPTQ: the inputs {what}; check the calibration, or use `rounding='rtn'`")
    alive = energy > 0
    mean = energy[alive].mean() if alive.any() else energy.new_ones(())
    order = torch.argsort(energy, descending=True, stable=True).flip(0)
    # Laid out by columns, as LAPACK wants it: it then works in place, and the factor needs no second K x K. Only the
    # lower half is computed.
    lower = inputs.new_empty(channels, channels).T
    for damping in DAMPING:
        # A failed factorization has overwritten H. It is computed again, rather than kept twice in case.
        lower.zero_()
        for rows in torch.split(inputs, TOKENS_AT_ONCE):
            ordered = rows.T[order].contiguous()
            for part in _parts(channels):
                add_product(lower.T[part, part.start :], ordered[part], ordered[part.start :].T)
        lower.diagonal().add_(torch.where(alive[order], damping * mean, mean))
        with threads(1 if channels < WORTH_TWO_THREADS else 2):  # alone here, its last bits depend on their number
            failed = _cholesky(lower)
        if not failed:
            # Cholesky's L is U √D: its columns divided by their diagonal are U. D weighs the columns' errors, not the
            # choice of the integers, and is dropped.
            return HessianFactor(order, lower.div_(lower.diagonal().clone()))
    raise AssertionError(f"H plus {DAMPING[-1]} of its mean diagonal is not positive definite")


@full_precision()
def gptq_weight(
    weight: Tensor, factor: HessianFactor, bits: int, clip: str = "mse", group_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Round `weight` to integers by GPTQ (Frantar et al., ICLR 2023, arXiv 2210.17323, Algorithm 1).

    The scales are chosen before, as round-to-nearest chooses them, for groups of *neighbouring* columns ("static
    groups"), so that the integers keep the weight's own order. With the columns and U as in `HessianFactor`, column i
    becomes w_i + Σ_{j>i} e_j U_ji with the errors e_j = w_j - s q_j of those that are rounded already: nothing that is
    done to it can lower the loss further. That is rounded to q_i.

    On a GPU nothing here waits for a column: the loop reads no value of a tensor.

    With H = U D Uᵀ the loss of a row of errors e is Σ_i D_i (e_i + Σ_{j>i} e_j U_ji)². When column i is reached, from
    the last down, all e_j in its term are known; the term is zero if e_i = -Σ e_j U_ji, and rounding is what is left.

    Args:
        weight: [N, K], floating.
        factor: of the layer's inputs, on the weight's device; the work is done in its dtype.
        bits: 4 or 8.
        clip: `mse` or `absmax`; see `round_weight`.
        group_size: Input channels per scale, or None: one scale per output channel.

    Returns:
        q [N, K] int8 and the scales, exactly of the kind that `round_weight` returns.

    Raises:
        InputError: what `choose_scale` raises.
    """
    scale = choose_scale(weight, bits, clip, group_size)
    order, lower = factor.order, factor.lower
    channels, place_of = len(order), torch.argsort(order)
    groups = [0] * channels if group_size is None else (order // group_size).tolist()
    quantized = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    at_once = ROWS_AT_ONCE if weight.device.type == "cpu" else ROWS_AT_ONCE_ON_GPUS
    pieces = (torch.split(part, at_once) for part in (weight, scale, quantized))
    for rows, steps, q_out in zip(*pieces, strict=True):
        # [K, rows]: row i is the weight's column i until that is rounded, from then on its error. Columns are rows
        # here, so that each step reads neighbours.
        errors = rows.T.to(lower.dtype).contiguous()[order]
        step_of = steps.T.to(lower.dtype)
        integers = torch.empty(errors.shape, dtype=torch.int8, device=errors.device)
        for stop in range(channels, 0, -COLUMNS_AT_ONCE):
            start = max(0, stop - COLUMNS_AT_ONCE)
            # A block's columns, corrected for every error behind it in one product: [128, K - stop] x [K - stop, rows].
            wanted = add_product(errors[start:stop].clone(), lower[stop:, start:stop].T, errors[stop:])
            for i in range(stop - 1, start - 1, -1):
                step = step_of[groups[i]]
                q = (wanted[i - start] / step).round_().clamp_(*integer_range(bits))
                integers[i] = q.to(torch.int8)
                errors[i].sub_(q.mul_(step))  # the error of the weight itself, not of what was wanted
                wanted[: i - start].addr_(lower[i, start:i], errors[i])
        q_out.copy_(integers[place_of].T)
    return quantized, scale


def _cholesky(lower: Tensor) -> Tensor:
    """Factor a matrix in place, of which the lower half is given and returned, and say whether that failed.

    By pieces of its columns, so that nearly all of the work is large products: LAPACK's own takes three times as long.
    What stands above the diagonal is zero before and after.
    """
    failed = torch.zeros((), dtype=torch.bool, device=lower.device)
    upper = lower.T  # the same memory, of which a row's neighbours are neighbours
    for part in _parts(len(lower)):
        diagonal, info = torch.linalg.cholesky_ex(lower[part, part])
        lower[part, part] = diagonal
        failed |= info != 0
        if part.stop < len(lower):
            below = torch.linalg.solve_triangular(diagonal, upper[part, part.stop :], upper=False).T.contiguous()
            lower[part.stop :, part] = below
            less = below.neg()
            for later in _parts(len(below)):
                left = upper[part.stop :, part.stop :][later, later.start :]
                add_product(left, less[later], below[later.start :].T)
    return failed


def _parts(size: int) -> list[slice]:
    """Cut the columns of a triangle into pieces."""
    stops = [*range(COLUMNS_OF_TRIANGLE, size, COLUMNS_OF_TRIANGLE), size]
    return [slice(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
