"""Symmetric round-to-nearest of a weight, one scale per output channel, with the clip that costs the least."""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError

COARSE = [i / 20 for i in range(20, 1, -1)]
"""Clip fractions tried for every row: 1.00, 0.95, ..., 0.10 of its largest magnitude."""
FINE = [i / 100 for i in (0, 1, -1, 2, -2, 3, -3, 4, -4)]
"""Then steps around the best of them; equal errors keep the earlier candidate."""
ELEMENTS_AT_ONCE = 1 << 18
"""Weights searched at a time: their scratch stays in the CPU's cache, and memory does not grow with the layer."""


def round_weight(weight: Tensor, bits: int, clip: str = "mse") -> tuple[Tensor, Tensor]:
    """Round each output channel w to integers q with w ≈ scale * q.

    With a clip fraction c the scale is c * max|w| / 7 (127 for 8 bits), and q = rint(w / scale), half to even, clamped
    to -8..7 (-128..127). `mse` chooses each row's c by the squared error, among 1.00, 0.95, ..., 0.10 and then in steps
    of 0.01 around the best; c = 7/8 or so lets a row whose extreme is negative use -8.

    Args:
        weight: [N, K], floating.
        bits: 4 or 8.
        clip: `mse`, or `absmax` for c = 1.

    Returns:
        q [N, K] int8, and the scales [N, 1] fp32. A row of zeros has scale 1.

    Raises:
        InputError: Other bits or clip, or a weight that is NaN or infinite.
    """
    if bits not in (4, 8):
        raise InputError(f"cannot round weights to {bits} bits: choose 4 or 8")
    if clip not in ("mse", "absmax"):
        raise InputError(f"unknown clip {clip!r}: choose mse or absmax")
    quantized = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.empty(len(weight), 1, dtype=torch.float32, device=weight.device)
    rows_at_once = max(1, ELEMENTS_AT_ONCE // max(weight.shape[1], 1))
    pieces = (torch.split(part, rows_at_once) for part in (weight, quantized, scales))
    for rows, q_out, scale_out in zip(*pieces, strict=True):
        w = rows.float()
        if not w.isfinite().all():
            raise InputError("cannot round weights that are NaN or infinite: the checkpoint is damaged")
        scale = step_size(w.abs().amax(1, keepdim=True), 2 ** (bits - 1) - 1)
        if clip == "mse":
            scale = scale * _best_clip(w / scale, bits)
        scale_out.copy_(scale)
        q_out.copy_((w / scale).round_().clamp_(*integer_range(bits)))
    return quantized, scales


def step_size(peak: Tensor, largest: int) -> Tensor:
    """Return the fp32 step that puts the magnitude `peak` on the integer `largest`; 1 where that step would be zero.

    It serves weights, activations (`largest` 127: s = absmax / 127) and a static activation scale from a percentile.
    NaN and infinity stay what they are.
    """
    step = peak.float() / largest
    return torch.where(step == 0, 1.0, step)


def integer_range(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest weight integer: -8 and 7, or -128 and 127."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _best_clip(units: Tensor, bits: int) -> Tensor:
    """Return each row's clip fraction [rows, 1] of least squared error; `units` are weights over the widest scale."""
    lowest, highest = integer_range(bits)
    best = torch.zeros(len(units), 1, device=units.device)
    for candidates in (COARSE, FINE):
        centre, least = best, torch.full_like(best, torch.inf)
        for step in candidates:
            clip = centre + step
            residual = (units / clip).round_().clamp_(lowest, highest).mul_(clip).sub_(units)
            error = residual.square_().sum(1, keepdim=True)
            best = torch.where(error < least, clip, best)
            least = torch.minimum(error, least)
    return best
