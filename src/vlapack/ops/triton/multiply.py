"""How both products launch their kernels: one over the tiles, and another that adds where the channels are split."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from vlapack.ops.triton import layout, tiles
from vlapack.ops.triton.arguments import Product
from vlapack.ops.triton.integers import finish_kernel


def multiplied(
    kernel: Any,
    layer: Product,
    dtype: torch.dtype,
    group_size: int | None,
    *,
    parts: torch.dtype,
    gated: bool = False,
    **options: Any,
) -> Tensor:
    """Return a product in `dtype`: [M, N], or [M, N / 2] if it is `gated`.

    Args:
        kernel: `product_kernel` or `weight_only_kernel`
        layer: its tensors
        dtype: of the result
        group_size: channels per weight scale, or None
        parts: dtype of a share's sums
        gated: whether outputs are gate and up in turns
        options: what this kernel takes beyond the arguments of both
    """
    M, N, K = layer.sizes
    device = layer.inputs.device
    y = torch.empty(M, N // 2 if gated else N, dtype=dtype, device=device)
    if not y.numel():
        return y
    grouped, floats = group_size is not None, layer.inputs.is_floating_point()
    tile, split = tiles.choose(device, M, N, K, grouped=grouped, floats=floats)
    if split == 1:
        multiply(kernel, layer, y, tile, group_size, **options)
        return y
    sums = torch.empty(split, M, N, dtype=parts, device=device)
    multiply(kernel, layer, sums, tile, group_size, **options)
    with tiles.on(device):
        finish_kernel[(M, triton.cdiv(N, tiles.FINISHED_AT_ONCE))](
            sums,
            layer.s,
            layer.weight_scale,
            layer.bias,
            layer.residual,
            y,
            M,
            N,
            SPLIT=split,
            GATED=gated,
            BN=tiles.FINISHED_AT_ONCE,
            enable_fp_fusion=False,
        )
    return y


def multiply(
    kernel: Any, layer: Product, out: Tensor, tile: tiles.Tile, group_size: int | None, **options: Any
) -> None:
    """Launch a product's kernel over the tiles of `out`: [M, N], or [S, M, N] for the sums of S shares."""
    M, N, K = layer.sizes
    sums = out.dim() == 3
    split = len(out) if sums else 1
    with tiles.on(out.device):
        kernel[(tiles.programs(tile, M, N), split)](
            layer.inputs,
            layer.weight,
            layer.weight_scale,
            None if sums else layer.bias,
            None if sums else layer.residual,
            out,
            M,
            N,
            K,
            layer.inputs.stride(0),
            layer.weight.stride(0),
            layer.scales_of_a_row,
            **tiles.constants(tile, layer.bits, group_size, split),
            EVEN=K % layout.BLOCK == 0,
            SUMS=sums,
            ASM=tiles.has_assembly(out.device),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=False,
            **options,
        )
