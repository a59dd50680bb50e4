"""Symmetric round-to-nearest of a weight, one scale per output channel or group, with the clip that costs least."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vlapack.errors import InputError

CLIPS = ([i / 20 for i in range(20, 1, -1)], [i / 100 for i in (1, -1, 2, -2, 3, -3, 4, -4)])
"""Clip fractions tried for every row: 1.00, 0.95, ..., 0.10 of its largest magnitude, then steps around the best of
them; equal errors keep the earlier candidate."""
MANY = 256
CLIPS_OF_MANY = ([i / 10 for i in range(10, 0, -1)], [0.05, -0.05], [0.02, -0.02], [0.01, -0.01])
"""For rows of at least `MANY` weights, whose error changes so smoothly that half of them suffice."""
ELEMENTS_AT_ONCE = 1 << 18
"""Weights searched at a time: their scratch stays in the CPU's cache, and memory does not grow with the layer."""
ELEMENTS_AT_ONCE_ON_GPUS = 1 << 23
"""Enough for a GPU to be busy; scratch of 32 MiB a tensor."""


def round_weight(weight: Tensor, bits: int, clip: str = "mse", group_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Round each output channel w, or each group of its input channels, to integers q with w ≈ scale * q.

    q = rint(w / scale), half to even, clamped to -8..7 (-128..127); the scale is that of `choose_scale`, as stored.

    Args:
        weight: [N, K], floating.
        bits: 4 or 8.
        clip: `mse`, or `absmax`; see `choose_scale`.
        group_size: Neighbouring input channels per scale (the last group may be short); None: one scale per row.

    Returns:
        q [N, K] int8, and the scales.

    Raises:
        InputError: Other bits, clip or group, or a weight that is NaN or infinite.
    """
    scale = choose_scale(weight, bits, clip, group_size)
    quantized = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    for rows, steps, q_out in zip(*_in_pieces(weight, scale, quantized), strict=True):
        step = column_scale(steps, weight.shape[1], group_size)
        q_out.copy_((rows.float() / step).round_().clamp_(*integer_range(bits)))
    return quantized, scale


def choose_scale(weight: Tensor, bits: int, clip: str = "mse", group_size: int | None = None) -> Tensor:
    """Return the scales by which `round_weight` rounds.

    With a clip fraction c a scale is c * max|w| / 7 (127 for 8 bits) over its row or group. `mse` chooses each one's c
    by the squared error, among 1.00, 0.95, ..., 0.10 and then down to steps of 0.01 around the best; c = 7/8 or so lets
    a row whose extreme is negative use -8. `absmax` is c = 1.

    Returns:
        fp32 [N, 1], or with a `group_size` bf16 [N, ceil(K / group_size)]: rounded to what a pack stores, so that the
        integers are made for the very numbers that will multiply them. All zeros have scale 1.

    Raises:
        InputError: Other bits, clip or group, or a weight that is NaN or infinite.
    """
    if bits not in (4, 8):
        raise InputError(f"cannot round weights to {bits} bits: choose 4 or 8")
    if clip not in ("mse", "absmax"):
        raise InputError(f"unknown clip {clip!r}: choose mse or absmax")
    if group_size is not None and group_size < 1:
        raise InputError(f"a weight scale for {group_size} channels is not possible: choose 32, 64, 128 or None")
    groups = group_count(weight.shape[1], group_size)
    dtype = torch.float32 if group_size is None else torch.bfloat16
    scales = torch.empty(len(weight), groups, dtype=dtype, device=weight.device)
    for rows, scale_out in zip(*_in_pieces(weight, scales), strict=True):
        w = rows.float()
        if not w.isfinite().all():
            raise InputError("cannot round weights that are NaN or infinite: the checkpoint is damaged")
        if group_size is not None:  # zeros that fill up the last group cost no clip any error
            w = torch.nn.functional.pad(w, (0, groups * group_size - w.shape[1])).reshape(-1, group_size)
        scale = step_size(w.abs().amax(1, keepdim=True), 2 ** (bits - 1) - 1)
        if clip == "mse":
            scale = scale * _best_clip(w / scale, bits)
        stored = scale.to(dtype)
        scale_out.copy_(torch.where(stored == 0, 1, stored).reshape(scale_out.shape))
    return scales


def largest_activation(bits: int) -> int:
    """Return the largest integer of an activation, which is symmetric: 7 for 4 bits, 127 for 8."""
    return integer_range(bits)[1]


def group_count(columns: int, group_size: int | None) -> int:
    """Return how many scales a row of K = `columns` weights has: ceil(K / group_size), or 1 without groups."""
    return 1 if group_size is None else -(-columns // group_size)


def column_scale(scale: Tensor, columns: int, group_size: int | None) -> Tensor:
    """Return fp32 scales that multiply the integers [N, K]: [N, 1] without groups, else one per column [N, K]."""
    if group_size is None:
        return scale
    return scale.float().repeat_interleave(group_size, dim=1)[:, :columns]


def step_size(peak: Tensor, largest: int) -> Tensor:
    """Return the fp32 step that puts the magnitude `peak` on the integer `largest`; 1 where that step would be zero.

    It serves weights, activations (`largest` 127: s = absmax / 127) and a static activation scale from a percentile.
    NaN and infinity stay what they are.
    """
    step = peak.float() / largest
    return torch.where(step == 0, 1.0, step)


def static_scale(inputs: Tensor, percentile: float, bits: int) -> float:
    """Return the one step of a layer's activations that puts the magnitude at `percentile` on the largest integer.

    Args:
        inputs: A sample [T, K] of the transformed inputs.
        percentile: In (0, 100]: the smallest magnitude that so many percent of all values do not exceed.
        bits: 4 or 8.
    """
    magnitudes = inputs.abs().float().flatten()
    place = max(0, math.ceil(magnitudes.numel() * percentile / 100) - 1)
    return float(step_size(_in_order(magnitudes, place), largest_activation(bits)))


def integer_range(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest weight integer: -8 and 7, or -128 and 127."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _in_order(values: Tensor, place: int) -> Tensor:
    """Return the value that sorting would put at `place`. On a CPU by numpy, which is many times faster than torch."""
    if values.device.type != "cpu":
        return values.kthvalue(place + 1).values
    numbers = values.numpy()  # of this function alone, and changed in place
    numbers.partition(place)
    return values[place]


def _in_pieces(weight: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """Split the weight, and what has as many rows, into pieces of about as many weights as suit its device."""
    elements = ELEMENTS_AT_ONCE if weight.device.type == "cpu" else ELEMENTS_AT_ONCE_ON_GPUS
    rows_at_once = max(1, elements // max(weight.shape[1], 1))
    return [torch.split(part, rows_at_once) for part in (weight, *others)]


def _best_clip(units: Tensor, bits: int) -> Tensor:
    """Return each row's clip fraction [rows, 1] of least squared error; `units` are weights over the widest scale."""
    lowest, highest = integer_range(bits)
    best = torch.zeros(len(units), 1, device=units.device)
    least = torch.full_like(best, torch.inf)
    for candidates in CLIPS_OF_MANY if units.shape[1] >= MANY else CLIPS:
        centre = best
        for step in candidates:
            clip = centre + step
            residual = (units / clip).round_().clamp_(lowest, highest).mul_(clip).sub_(units)
            error = residual.square_().sum(1, keepdim=True)
            best = torch.where(error < least, clip, best)
            least = torch.minimum(error, least)
    return best
