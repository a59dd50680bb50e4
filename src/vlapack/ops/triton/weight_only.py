"""The product of activations that are not quantized: 4- or 8-bit weights become bf16 in the kernel (W4A16, W8A16).

Integers up to 8 bits are exact in bf16. An fp32 activation is not, so it is taken apart into bf16 terms, each the
rounded rest of those before it: three for fp32 results, which are as good as any fp32 product's; two for narrower
ones, 16 bits of each activation. Every term is one product on the tensor cores, into the same fp32 sum. So the weights
are read once, packed, and no switch of the process (`allow_tf32`) changes the result.

Sums are in another order than the reference's, and few tokens split the channels as in `product`; the parts are added
in their order, so a result does not change from run to run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlapack.ops.triton import arguments, tiles
from vlapack.ops.triton.integers import finish_kernel
from vlapack.ops.triton.matmul import finish, group_scale, halves, inputs, place, share
from vlapack.ops.triton.multiply import multiplied
from vlapack.ops.triton.numeric import INTERPRETED, rounded
from vlapack.ops.triton.specimen import Specimen


@triton.jit(do_not_specialize=["M"])
def weight_only_kernel(
    x_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    M,
    N,
    K,
    x_stride,
    weight_stride,
    groups,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    TERMS: tl.constexpr,
    SPLIT: tl.constexpr,
    SUMS: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BAND: tl.constexpr,
):
    """y [M, N] = scale * (x Wᵀ) + bias + residual; for SUMS its fp32 sums without scale, [SPLIT, M, N]."""
    token, output = place(M, N, BM, BN, BAND)
    tokens = token + tl.arange(0, BM)
    outputs = output + tl.arange(0, BN)
    have_tokens = (tokens < M)[None, :]
    have_outputs = (outputs < N)[:, None]
    column = x_ptr + tokens.to(tl.int64)[None, :] * x_stride
    row = weight_ptr + outputs.to(tl.int64)[:, None] * weight_stride
    scales = scale_ptr + outputs.to(tl.int64)[:, None] * groups
    first, end = share(K, SPLIT)
    y = tl.zeros((BN, BM), tl.float32)
    for block in range(first, end):
        # Half of a block's bytes at a time: the registers for its activations are what is short.
        for start in tl.static_range(0, 64, 32):
            low, high = halves(row, have_outputs, block, start, 32, BITS, ASM)
            channel = block * 128 + start
            low_x = inputs(column, have_tokens, channel, K, 32, EVEN)
            high_x = inputs(column, have_tokens, channel + 64, K, 32, EVEN)
            if GROUP == 0:
                y = add_terms(low, low_x, y, TERMS)
                y = add_terms(high, high_x, y, TERMS)
            else:
                nothing = tl.zeros((BN, BM), tl.float32)
                scale = group_scale(scales, have_outputs, channel // GROUP, groups)
                y += add_terms(low, low_x, nothing, TERMS) * scale
                scale = group_scale(scales, have_outputs, (channel + 64) // GROUP, groups)
                y += add_terms(high, high_x, nothing, TERMS) * scale
    if BITS == 4:
        y = y * 0.0625  # weights came as 16 times their value
    if SUMS:
        places = (tl.program_id(1).to(tl.int64) * M + tokens)[None, :] * N + outputs[:, None]
        tl.store(y_ptr + places, y, mask=have_tokens & have_outputs)
    else:
        if GROUP == 0:
            y = y * tl.load(scale_ptr + outputs, mask=outputs < N, other=0.0)[:, None]
        finish(y, bias_ptr, residual_ptr, y_ptr, token, output, M, N, BM, BN, False)


@triton.jit
def add_terms(weights, x, total, TERMS: tl.constexpr):
    """Add weights [BN, H] int8 times x [H, BM] fp32 to `total`, x as TERMS of bf16, the largest first."""
    for _ in tl.static_range(TERMS):
        if INTERPRETED:  # which multiplies the bits of bf16 as if they were integers
            part = rounded(x, tl.bfloat16)
            total = tl.dot(weights.to(tl.float32), part, total, input_precision="ieee")
            x = x - part
        else:
            narrow = x.to(tl.bfloat16)
            total = tl.dot(weights.to(tl.bfloat16), narrow, total)
            x = x - narrow.to(tl.float32)
    return total


def float_linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    row_rotation: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    group_size: int | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """See `reference.float_linear`; `weight` is what `layout.prepare` returned.

    A token that holds infinity comes out as NaN.

    Args:
        x: [M, K] fp32, any strides
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
        InputError: a tensor has another dtype, shape or device than the others ask for.
    """
    terms = 3 if dtype == torch.float32 else 2
    if row_rotation is None:
        return _ended(x, weight, weight_scale, bias, residual, dtype, group_size, terms)
    y = _ended(x, weight, weight_scale, None, None, torch.float32, group_size, terms)
    return arguments.restored(y, row_rotation, bias, residual, dtype)


def _ended(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    group_size: int | None,
    terms: int,
) -> Tensor:
    layer = arguments.of_product(x, None, weight, weight_scale, bias, residual, dtype, group_size)
    return multiplied(weight_only_kernel, layer, dtype, group_size, parts=torch.float32, TERMS=terms)


def specimens() -> list[Specimen]:
    """Return each kind of product, at the tiles that each card takes for it."""
    found = [
        _specimen(f"weights only {label}", tile, targets, **options)
        for kind, tile, targets in tiles.uses()
        if kind == "floats"
        for label, options in _KINDS.items()
    ]
    constants = {"s_ptr": None, "bias_ptr": None, "residual_ptr": None, "SPLIT": 4, "GATED": False}
    signature = {"sums_ptr": "*fp32", "scale_ptr": "*fp32", "y_ptr": "*bf16", "M": "i32", "N": "i32"}
    ended = Specimen(finish_kernel, "weights only sums", signature, {**constants, "BN": tiles.FINISHED_AT_ONCE})
    return [*found, ended]


_KINDS: dict[str, dict[str, Any]] = {
    "4-bit": {},
    "4-bit sums": {"split": 4},
    "8-bit fp32": {"bits": 8, "terms": 3},
    "4-bit groups of 32": {"group_size": 32},
    "4-bit groups of 128": {"group_size": 128},
}


def _specimen(
    name: str,
    tile: tiles.Tile,
    targets: tuple[str, ...],
    *,
    bits: int = 4,
    group_size: int | None = None,
    terms: int = 2,
    split: int = 1,
) -> Specimen:
    signature = {
        "x_ptr": "*fp32",
        "weight_ptr": "*u8",
        "scale_ptr": "*fp32" if group_size is None else "*bf16",
        "y_ptr": "*bf16" if terms < 3 and split == 1 else "*fp32",
        **dict.fromkeys(("M", "N", "K", "x_stride", "weight_stride", "groups"), "i32"),
    }
    constants = {
        **dict.fromkeys(("bias_ptr", "residual_ptr")),
        **{"ASM": True, "TERMS": terms, "SUMS": split > 1, "EVEN": True},
        **tiles.constants(tile, bits, group_size, split),
    }
    return Specimen(
        weight_only_kernel,
        f"{name} {tile}",
        signature,
        constants,
        tile.num_warps,
        tile.num_stages,
        "mma",
        targets=targets,
    )
