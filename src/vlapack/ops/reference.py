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

import torch
from torch import Tensor

from vlapack.methods.rotate import restore_rows
from vlapack.methods.round import step_size
from vlapack.methods.transform import Transform
from vlapack.ops.int4 import unpack_int4

FP32_INTEGERS = 1 << 24
LARGEST_ACTIVATION = 127
WEIGHTS_AT_ONCE = 1 << 22
"""Weights unpacked at a time, 16 MB of fp32: only the nibbles of a layer are ever in memory as a whole."""


def transform_activation(
    x: Tensor, smooth: Tensor | None = None, permutation: Tensor | None = None, rotation: Tensor | None = None
) -> Tensor:
    """Return x T in fp32 for `x` [M, K] floating; see `Transform` for the steps."""
    positions = None if permutation is None else permutation.to(torch.int64)
    return Transform(smooth, positions, rotation).inputs(x.float())


def quantize_activation(
    x: Tensor,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Transform the rows of `x` [M, K] and round them to integers q with x T ≈ s * q.

    s is the row's absmax / 127 (1 for a row of zeros) or the given static `scale`; q = rint(x T / s), by division, half
    to even, clamped to ±127. A row that holds NaN or infinity has s = NaN and q = 0, so that its outputs are NaN.

    Returns:
        q [M, K] int8 and s [M, 1] fp32.
    """
    y = transform_activation(x, smooth, permutation, rotation)
    peak = y.abs().amax(-1, keepdim=True)
    step = step_size(peak, LARGEST_ACTIVATION) if scale is None else scale
    step = torch.where(peak.isfinite(), step, torch.nan)
    rounded = (y / step).round_().clamp_(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)
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
) -> Tensor:
    """Return y = s * weight_scale * (q Wᵀ), rows restored, plus bias; the integer product q Wᵀ is exact.

    Args:
        q: Activations [M, K] int8.
        s: Their scales [M, 1] fp32.
        weight: int32 [N, ceil(K / 8)] holds 4-bit weights (`ops.int4`); int8 [N, K] holds 8-bit ones.
        weight_scale: [N, 1] fp32.
        row_rotation: Blocks [1 or N/B, B, B] that rotated W's rows, or None.
        bias: [N], added last, or None.
        dtype: Of the result; everything before is fp32.

    Returns:
        y [M, N].
    """
    return _finish(integer_product(q, weight).float() * weight_scale.T * s, row_rotation, bias, dtype)


def float_linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    row_rotation: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> Tensor:
    """Return x (weight_scale * W)ᵀ, rows restored, plus bias, for activations `x` [M, K] fp32 that are not rounded.

    The other arguments are those of `int_linear`. This product rounds as any fp32 product of torch does.
    """
    return _finish(_product(x, weight, torch.float32) * weight_scale.T, row_rotation, bias, dtype)


def integer_product(q: Tensor, weight: Tensor) -> Tensor:
    """Return q Wᵀ [M, N] exactly, as whole numbers in fp32 where every sum fits into it, else in float64."""
    largest_weight = 8 if weight.dtype == torch.int32 else 128
    fits = q.shape[1] * 128 * largest_weight <= FP32_INTEGERS
    return _product(q, weight, torch.float32 if fits else torch.float64)


def _product(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    channels = x.shape[1]
    wide = x.to(dtype)
    outputs = []
    with torch.autocast(x.device.type, enabled=False):
        for rows in torch.split(weight, max(1, WEIGHTS_AT_ONCE // channels)):
            integers = unpack_int4(rows, channels) if weight.dtype == torch.int32 else rows
            outputs.append(wide @ integers.to(dtype).T)
    return torch.cat(outputs, dim=1)


def _finish(y: Tensor, row_rotation: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    if row_rotation is not None:
        y = restore_rows(y, row_rotation)
    if bias is not None:
        y = y + bias
    return y.to(dtype)
