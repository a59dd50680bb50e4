"""The integer product: int8 activations times 4- or 8-bit weights on tensor cores, scaled as the reference scales it.

Sums are exact in int32 up to `layout.CHANNELS` input channels: a 4-bit weight is multiplied as 16 of it, and the sum is
shifted back. fp32 results are the reference's bit for bit: the scalings keep its order and are not fused into
multiply-adds. A row rotation is undone after the kernel, in the reference's float64.

Few tokens leave most of a card without work, so several programs then share the channels of one tile
(`tiles.choose`), and a second kernel adds what they found.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from vlapack.ops import reference
from vlapack.ops.triton import arguments, layout, tiles
from vlapack.ops.triton.integers import finish_kernel, product_kernel


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

    A weight in a pack's own layout is the reference's.

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
    if weight.dtype != torch.uint8:
        y = reference.int_linear(q, s, weight, weight_scale, row_rotation, bias, dtype=dtype, group_size=group_size)
        return y if residual is None else y + residual
    if row_rotation is None:
        return _launch(q, s, weight, weight_scale, bias, residual, dtype, group_size)
    y = _launch(q, s, weight, weight_scale, None, None, torch.float32, group_size)
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
    return _launch(q, s, weight, weight_scale, bias, None, dtype, group_size, gated=True)


def _launch(
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
    layer = arguments.checked(q, s, weight, weight_scale, bias, residual, dtype, group_size, torch.int8)
    M, N, K = layer.sizes
    y = torch.empty(M, N // 2 if gated else N, dtype=dtype, device=q.device)
    if not y.numel():
        return y
    tile, split = tiles.choose(q.device, M, N, K, grouped=group_size is not None)
    out = y if split == 1 else torch.empty(split, M, N, dtype=torch.int32, device=q.device)
    tail = (layer.bias, layer.residual)
    with tiles.on(q.device):
        product_kernel[(tiles.programs(tile, M, N), split)](
            layer.inputs,
            layer.s,
            layer.weight,
            layer.weight_scale,
            *(tail if split == 1 else (None, None)),
            out,
            M,
            N,
            K,
            layer.inputs.stride(0),
            layer.weight.stride(0),
            layer.weight_scale.shape[1],
            **tiles.constants(tile, layer.bits, group_size, split, even=K % layout.BLOCK == 0),
            GATED=gated,
            ASM=tiles.has_assembly(q.device),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=False,
        )
        if split > 1:
            finish_kernel[(M, triton.cdiv(N, tiles.FINISHED_AT_ONCE))](
                out,
                layer.s,
                layer.weight_scale,
                *tail,
                y,
                M,
                N,
                SPLIT=split,
                GATED=gated,
                BN=tiles.FINISHED_AT_ONCE,
                enable_fp_fusion=False,
            )
    return y
