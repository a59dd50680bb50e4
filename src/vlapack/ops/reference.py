"""The definition of every op, in plain torch, on any device: other engines must agree with these lines.

Integer products need no integer instructions. fp32 holds every integer up to 2²⁴, so int8 activations times 4-bit
weights are exact in fp32 up to K = 2²⁴ / (128 * 8) = 16384 channels, times 8-bit weights up to K = 1024; above that the
product is computed in float64, which is exact for any K there is. Two process-wide switches could round an fp32 product
on the way, and neither may matter here:

- `torch.set_float32_matmul_precision` lets a product read its factors as bf16 or TF32. Eight-bit integers are exact in
  both, and sums stay fp32. Rotations, whose factors are not integers, are float64 (`rotate_blocks`).
- Autocast makes the product's *result* bf16; it is switched off around the product.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vlapack.methods.rotate import restore_rows
from vlapack.methods.round import column_scale, largest_activation, step_size
from vlapack.methods.transform import Transform, rotate_blocks
from vlapack.ops.int4 import unpack_int4

FP32_INTEGERS = 1 << 24
WEIGHTS_AT_ONCE = 1 << 22
"""Weights unpacked at a time, 16 MB of fp32: only the nibbles of a layer are ever in memory as a whole."""


def transform_activation(
    x: Tensor,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    pre_rotation: Tensor | None = None,
) -> Tensor:
    """Return x T in fp32 for `x` [M, K] floating; see `Transform` for the steps."""
    positions = None if permutation is None else permutation.to(torch.int64)
    y = Transform(smooth, positions, rotation, pre_rotation).inputs(x.float())
    return y.clone() if y is x else y  # torch's custom ops must not return their argument


def quantize_activation(  # noqa: PLR0917 - torch's custom ops take tensors by position
    x: Tensor,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
    bits: int = 8,
    pre_rotation: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Transform the rows of `x` [M, K] and round them to integers q with x T ≈ s * q.

    s is the row's absmax / L (1 for a row of zeros) or the given static `scale`; q = rint(x T / s), by division, half
    to even, clamped to ±L, where L = 127 for 8 `bits` and 7 for 4. A row that holds NaN or infinity has s = NaN and
    q = 0, so that its outputs are NaN.

    Returns:
        q [M, K] int8 and s [M, 1] fp32.
    """
    y = transform_activation(x, smooth, permutation, rotation, pre_rotation)
    peak = y.abs().amax(-1, keepdim=True)
    largest = largest_activation(bits)
    step = step_size(peak, largest) if scale is None else scale
    step = torch.where(peak.isfinite(), step, torch.nan)
    rounded = (y / step).round_().clamp_(-largest, largest)
    return rounded.nan_to_num_(nan=0.0).to(torch.int8), step


def int_linear(  # noqa: PLR0917 - torch's custom ops take tensors by position
    q: Tensor,
    s: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    row_rotation: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    group_size: int | None = None,
) -> Tensor:
    """Return y = s * weight_scale * (q Wᵀ), rows restored, plus bias; the integer product q Wᵀ is exact.

    With groups it is exact per group, and y = s * Σ_g weight_scale[:, g] * (q_g W_gᵀ): each group's product is scaled
    in fp32 and then added in fp32, in the groups' order, beginning with the first; s comes last.

    Args:
        q: Activations [M, K] int8.
        s: Their scales [M, 1] fp32.
        weight: int32 [N, ceil(K / 8)] holds 4-bit weights (`ops.int4`); int8 [N, K] holds 8-bit ones.
        weight_scale: [N, 1] fp32, or with groups [N, ceil(K / group_size)] bf16.
        row_rotation: Blocks [1 or N/B, B, B] that rotated W's rows, or None.
        bias: [N], added last, or None.
        dtype: Of the result; everything before is fp32.
        group_size: Neighbouring channels that share a scale; the last group may be short. None: all of a row.

    Returns:
        y [M, N].
    """
    if group_size is None:
        y = integer_product(q, weight).float() * weight_scale.T
    else:
        y = _grouped_product(q, weight, weight_scale, group_size)
    return _finish(y * s, row_rotation, bias, dtype)


def float_linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    row_rotation: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    group_size: int | None = None,
) -> Tensor:
    """Return x (weight_scale * W)ᵀ, rows restored, plus bias, for activations `x` [M, K] fp32 that are not rounded.

    The other arguments are those of `int_linear`. This product rounds as any fp32 product of torch does.
    """
    if group_size is None:
        y = _product(x, weight, torch.float32) * weight_scale.T
    else:
        y = _grouped_product(x, weight, weight_scale, group_size)
    return _finish(y, row_rotation, bias, dtype)


def linear_gradient(
    gradient: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    row_rotation: Tensor | None = None,
    *,
    inputs: int,
    group_size: int | None = None,
) -> Tensor:
    """Return g U (weight_scale * W), the derivative of both linears by the activations that they multiply.

    U are the blocks of the row rotation, where there is one. This product rounds as any fp32 product of torch does.

    Args:
        gradient: g [M, N], by the outputs, floating.
        weight: As in `int_linear`, like the next two.
        weight_scale: [N, 1], or with groups [N, ceil(K / group_size)].
        row_rotation: Blocks, or None.
        inputs: K.
        group_size: As there.

    Returns:
        [M, K] fp32, by s * q (`int_linear`) or x (`float_linear`).
    """
    wide = gradient.float()
    if row_rotation is not None:
        wide = rotate_blocks(wide, row_rotation)
    found = wide.new_zeros(len(wide), inputs)
    rows_at_once = _rows_at_once(inputs)
    parts, scales = torch.split(wide, rows_at_once, dim=1), torch.split(weight_scale, rows_at_once)
    with torch.autocast(wide.device.type, enabled=False):
        for part, integers, scale in zip(parts, _unpacked(weight, inputs), scales, strict=True):
            found += part @ (integers.float() * column_scale(scale, inputs, group_size))
    return found


def activation_gradient(  # noqa: PLR0917 - torch's custom ops take tensors by position
    gradient: Tensor,
    x: Tensor | None = None,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
    bits: int = 8,
    pre_rotation: Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> Tensor:
    """Return the straight-through derivative of an activation step by its inputs.

    Rounding counts as the identity (Bengio et al., arXiv 1308.3432, section 3.1), and a scale as a constant, also where
    it is a token's own absmax / L. Values that rounding clips to ±L have no derivative; with a token's own scale there
    are none.

    Args:
        gradient: By s * q, or by x T where nothing is rounded, [M, K] floating.
        x: The inputs [M, K], read only with a static `scale`, to know what was clipped.
        smooth: The steps of `quantize_activation`, like the others.
        permutation: [K].
        rotation: [1 or K/B, B, B].
        scale: The static one [1], or None.
        bits: 8 or 4.
        pre_rotation: [1 or K/B, B, B].
        dtype: Of the result.

    Returns:
        [M, K], by x.
    """
    wide = gradient.float()
    if scale is not None:
        assert x is not None
        y = transform_activation(x, smooth, permutation, rotation, pre_rotation)
        wide = wide.masked_fill(clipped(y, scale, bits), 0.0)
    positions = None if permutation is None else permutation.to(torch.int64)
    found = Transform(None, positions, rotation, pre_rotation).restored(wide)
    if smooth is not None:
        found = found / smooth
    found = found.to(dtype)
    return found.clone() if found is gradient else found  # torch's custom ops must not return their argument


def clipped(y: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Say which values [M, K] a static scale rounds to integers that do not exist."""
    return (y / scale).round_().abs_() > largest_activation(bits)


def integer_product(q: Tensor, weight: Tensor) -> Tensor:
    """Return q Wᵀ [M, N] exactly, as whole numbers in fp32 where every sum fits into it, else in float64."""
    largest_weight = 8 if weight.dtype == torch.int32 else 128
    fits = q.shape[1] * 128 * largest_weight <= FP32_INTEGERS
    return _product(q, weight, torch.float32 if fits else torch.float64)


def _product(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    wide = x.to(dtype)
    with torch.autocast(x.device.type, enabled=False):
        return torch.cat([wide @ integers.to(dtype).T for integers in _unpacked(weight, x.shape[1])], dim=1)


def _grouped_product(x: Tensor, weight: Tensor, weight_scale: Tensor, group_size: int) -> Tensor:
    """Return Σ_g weight_scale[:, g] (x_g W_gᵀ) [M, N] fp32; any group of int8 has an exact sum in fp32 (see above)."""
    parts = torch.split(x.float(), group_size, dim=1)
    scales = torch.split(weight_scale.float(), _rows_at_once(x.shape[1]))
    outputs = []
    with torch.autocast(x.device.type, enabled=False):
        for integers, scale in zip(_unpacked(weight, x.shape[1]), scales, strict=True):
            y = x.new_zeros(len(x), len(integers), dtype=torch.float32)
            groups = torch.split(integers.float(), group_size, dim=1)
            for part, group, step in zip(parts, groups, scale.T, strict=True):
                y += (part @ group.T) * step
            outputs.append(y)
    return torch.cat(outputs, dim=1)


def _unpacked(weight: Tensor, channels: int) -> Iterator[Tensor]:
    """Yield the integers of `weight`, int8 [rows, channels], some rows at a time."""
    for rows in torch.split(weight, _rows_at_once(channels)):
        yield unpack_int4(rows, channels) if weight.dtype == torch.int32 else rows


def _rows_at_once(channels: int) -> int:
    return max(1, WEIGHTS_AT_ONCE // channels)


def _finish(y: Tensor, row_rotation: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    if row_rotation is not None:
        y = restore_rows(y, row_rotation)
    if bias is not None:
        y = y + bias
    return y.to(dtype)
