"""The activation step of the `triton` engine: transform the rows of an input and round them to integers.

Integers and scales are the reference's. With a rotation, which is fp32 here and float64 there, an integer may differ by
one where the reference is within 1e-3 of a half.

Hadamard blocks, or none, take one launch. Dense blocks are a launch of their own (`blocks`), and so is a first
rotation, since the permutation after it needs all of a row.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
from torch import Tensor

from vlapack.ops.triton import blocks
from vlapack.ops.triton.source import Source, launch, plain
from vlapack.ops.triton.steps import Steps


def transform_activation(
    x: Tensor,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    pre_rotation: Tensor | None = None,
) -> Tensor:
    """See `reference.transform_activation`."""
    return transformed(plain(x), Steps(smooth, permutation, rotation, pre_rotation=pre_rotation), torch.float32)


def quantize_activation(
    x: Tensor,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
    bits: int = 8,
    pre_rotation: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `reference.quantize_activation`."""
    return quantized(plain(x), Steps(smooth, permutation, rotation, scale, bits, pre_rotation))


def quantized(source: Source, steps: Steps) -> tuple[Tensor, Tensor]:
    """Return q [M, K] int8 and s [M, 1] fp32 of the rows that come from `source`, after `steps`."""
    steps = steps.checked(source.shape[1], source.device)
    if not steps.one_launch:
        source = plain(_transformed(source, steps, torch.float32))
        steps = Steps(scale=steps.scale, bits=steps.bits)
    q = source.empty(torch.int8)
    s = torch.empty(len(q), 1, dtype=torch.float32, device=q.device)
    launch(source, steps, q=q, s=s)
    return q, s


def transformed(source: Source, steps: Steps, dtype: torch.dtype) -> Tensor:
    """Return the rows that come from `source` after `steps`, and before they are rounded to integers, in `dtype`."""
    return _transformed(source, steps.checked(source.shape[1], source.device), dtype)


def _transformed(source: Source, steps: Steps, dtype: torch.dtype) -> Tensor:
    if steps.pre_rotation is not None:
        source = plain(_transformed(source, Steps(steps.smooth, None, steps.pre_rotation), torch.float32))
        steps = replace(steps, smooth=None, pre_rotation=None)
    if steps.dense:
        if source.kind != "plain":
            source = plain(_transformed(source, Steps(), source.dtype))
        return _rotated(source, steps, dtype)
    y = source.empty(dtype)
    launch(source, steps, y=y)
    return y


def _rotated(source: Source, steps: Steps, dtype: torch.dtype) -> Tensor:
    assert steps.rotation is not None
    assert source.x is not None
    x, (count, channels), y = source.x, source.shape, source.empty(dtype)
    if not count:
        return y
    shared, block, _ = steps.rotation.shape
    tile = blocks.tile(block)
    blocks.blocks_kernel[(triton.cdiv(count, blocks.ROWS), channels // block, triton.cdiv(block, tile))](
        x,
        x.stride(0),
        steps.smooth,
        steps.permutation,
        steps.rotation,
        0 if shared == 1 else block * block,
        y,
        count,
        channels,
        block,
        ROWS=blocks.ROWS,
        TILE=tile,
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=False,
    )
    return y
