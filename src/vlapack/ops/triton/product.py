"""The integer product: int8 activations times 4- or 8-bit weights on tensor cores, scaled as the reference scales it.

Sums are exact in int32 up to `layout.CHANNELS` input channels: a 4-bit weight is multiplied as 16 of it, and the sum is
shifted back. fp32 results are the reference's bit for bit: the scalings keep its order and are not fused into
multiply-adds. A row rotation is undone after the kernel, in the reference's float64.

Few tokens leave most of a card without work, so several programs then share the channels of one tile
(`tiles.choose`), and a second kernel adds what they found: here, or in the kernel that reads the product (`int_sums`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.ops.triton import arguments, tiles
from vlapack.ops.triton.integers import product_kernel
from vlapack.ops.triton.multiply import multiplied, multiply


def int_linear(
    q: Tensor,
    s: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    row_rotation: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    group_size: int | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """See `reference.int_linear`; `weight` is what `layout.prepare` returned.

    Args:
        q: [M, K] int8, any strides
        s: [M, 1] fp32
        weight: prepared, 4 or 8 bits
        weight_scale: [N, 1] fp32, or with groups [N, ceil(K / group_size)] bf16
        row_rotation: [1 or N/B, B, B], or None
        bias: [N], added last, or None
        dtype: fp32, bf16 or fp16
        group_size: 32, 64, 128 or None
        residual: [M, N] of that dtype, added to the rounded result, or None

    Returns:
        y [M, N].

    Raises:
        InputError: a tensor has another dtype, shape or device than the others ask for, or K is too large for 32 bits.
    """
    if row_rotation is None:
        return _ended(q, s, weight, weight_scale, bias, residual, dtype, group_size)
    y = _ended(q, s, weight, weight_scale, None, None, torch.float32, group_size)
    return arguments.restored(y, row_rotation, bias, residual, dtype)


def gated_product(
    q: Tensor,
    s: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    group_size: int | None = None,
) -> Tensor:
    """Return gelu(gate) * up [M, F], GELU by its tanh approximation, from one product of both.

    `weight`, `weight_scale` and `bias` hold gate's and up's F rows in turns (`layout.interleave`). gate, up and what
    comes of them are fp32 until the end: they are not rounded to `dtype` in between, as two products would be. The
    other arguments are those of `int_linear`.
    """
    if len(weight) % 2:
        arguments.refuse(f"{len(weight)} rows of gate and up in turns: their number must be even (`layout.interleave`)")
    return _ended(q, s, weight, weight_scale, bias, None, dtype, group_size, gated=True)


def int_sums(q: Tensor, weight: Tensor, outputs: int) -> Tensor:
    """See `fused_reference.int_sums`: [S, M, N] int32, where S programs share the channels of a tile.

    S follows from the shapes and the card, and is 1 for many tokens.
    """
    layer = arguments.of_sums(q, weight)
    M, N, K = layer.sizes
    if outputs != N:
        arguments.refuse(f"outputs={outputs} of a weight with {N} rows")
    if not M * N:
        return torch.empty(1, M, N, dtype=torch.int32, device=q.device)
    tile, split = tiles.choose(q.device, M, N, K)
    sums = torch.empty(split, M, N, dtype=torch.int32, device=q.device)
    multiply(product_kernel, layer, sums, tile, None, s_ptr=None, GATED=False)
    return sums


def _ended(
    q: Tensor,
    s: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    group_size: int | None,
    *,
    gated: bool = False,
) -> Tensor:
    layer = arguments.of_product(q, s, weight, weight_scale, bias, residual, dtype, group_size)
    return multiplied(
        product_kernel, layer, dtype, group_size, parts=torch.int32, gated=gated, s_ptr=layer.s, GATED=gated
    )
