"""The kernels of the integer product; `multiply` launches them.

Every program computes the sums of one tile in int32, exactly, and scales them in the reference's order. Split among
programs, or where the kernel that reads the product ends it, they store the sums. Scales per group are added in the
groups' order, in fp32, which no split could keep.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from vlapack.ops.triton import tiles
from vlapack.ops.triton.matmul import finish, group_scale, halves, inputs, place, share
from vlapack.ops.triton.specimen import Specimen


@triton.jit(do_not_specialize=["M"])
def product_kernel(
    q_ptr,
    weight_ptr,
    scale_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    M,
    N,
    K,
    q_stride,
    weight_stride,
    groups,
    s_ptr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    SPLIT: tl.constexpr,
    SUMS: tl.constexpr,
    GATED: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BAND: tl.constexpr,
):
    """y [M, N] = s * scale * (q Wᵀ) + bias + residual; for SUMS its int32 sums alone, [SPLIT, M, N]."""
    token, output = place(M, N, BM, BN, BAND)
    tokens = token + tl.arange(0, BM)
    outputs = output + tl.arange(0, BN)
    have_tokens = (tokens < M)[None, :]
    have_outputs = (outputs < N)[:, None]
    column = q_ptr + tokens.to(tl.int64)[None, :] * q_stride
    row = weight_ptr + outputs.to(tl.int64)[:, None] * weight_stride
    first, end = share(K, SPLIT)
    if GROUP == 0:
        total = tl.zeros((BN, BM), tl.int32)
        for block in range(first, end):
            low, high = halves(row, have_outputs, block, 0, 64, BITS, ASM)
            total = _dot(low, inputs(column, have_tokens, block * 128, K, 64, EVEN), total)
            total = _dot(high, inputs(column, have_tokens, block * 128 + 64, K, 64, EVEN), total)
        if BITS == 4:
            total = total >> 4
        if SUMS:
            places = (tl.program_id(1).to(tl.int64) * M + tokens)[None, :] * N + outputs[:, None]
            tl.store(y_ptr + places, total, mask=have_tokens & have_outputs)
        else:
            y = total.to(tl.float32) * tl.load(scale_ptr + outputs, mask=outputs < N, other=0.0)[:, None]
            y = y * tl.load(s_ptr + tokens, mask=tokens < M, other=0.0)[None, :]
            finish(y, bias_ptr, residual_ptr, y_ptr, token, output, M, N, BM, BN, GATED)
    else:
        y = tl.zeros((BN, BM), tl.float32)
        scales = scale_ptr + outputs.to(tl.int64)[:, None] * groups
        for block in range(first, end):
            y = _add_groups(y, row, scales, column, have_outputs, have_tokens, block, K, groups, BITS, GROUP, EVEN, ASM)
        y = y * tl.load(s_ptr + tokens, mask=tokens < M, other=0.0)[None, :]
        finish(y, bias_ptr, residual_ptr, y_ptr, token, output, M, N, BM, BN, GATED)


@triton.jit
def _add_groups(
    y,
    row,
    scales,
    column,
    have_outputs,
    have_tokens,
    block,
    K,
    groups,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    ASM: tl.constexpr,
):
    """Add a block's groups to `y` fp32, one after the other in their order."""
    channel = block * 128
    if GROUP == 128:
        low, high = halves(row, have_outputs, block, 0, 64, BITS, ASM)
        total = _dot(low, inputs(column, have_tokens, channel, K, 64, EVEN))
        total = _dot(high, inputs(column, have_tokens, channel + 64, K, 64, EVEN), total)
        y += _scaled(total, group_scale(scales, have_outputs, block, groups), BITS)
    elif GROUP == 64:
        low, high = halves(row, have_outputs, block, 0, 64, BITS, ASM)
        total = _dot(low, inputs(column, have_tokens, channel, K, 64, EVEN))
        y += _scaled(total, group_scale(scales, have_outputs, 2 * block, groups), BITS)
        total = _dot(high, inputs(column, have_tokens, channel + 64, K, 64, EVEN))
        y += _scaled(total, group_scale(scales, have_outputs, 2 * block + 1, groups), BITS)
    else:
        # A half of the block is two groups; the second half's nibbles come with the first one's.
        low, high = halves(row, have_outputs, block, 0, 32, BITS, ASM)
        next_low, next_high = halves(row, have_outputs, block, 32, 32, BITS, ASM)
        total = _dot(low, inputs(column, have_tokens, channel, K, 32, EVEN))
        y += _scaled(total, group_scale(scales, have_outputs, 4 * block, groups), BITS)
        total = _dot(next_low, inputs(column, have_tokens, channel + 32, K, 32, EVEN))
        y += _scaled(total, group_scale(scales, have_outputs, 4 * block + 1, groups), BITS)
        total = _dot(high, inputs(column, have_tokens, channel + 64, K, 32, EVEN))
        y += _scaled(total, group_scale(scales, have_outputs, 4 * block + 2, groups), BITS)
        total = _dot(next_high, inputs(column, have_tokens, channel + 96, K, 32, EVEN))
        y += _scaled(total, group_scale(scales, have_outputs, 4 * block + 3, groups), BITS)
    return y


@triton.jit
def _dot(weights, q, total=None):
    """Weights [BN, H] int8 times q [H, BM] int8, added to `total`, int32."""
    # Triton 3.6 asks for the dtype although there is no other.
    return tl.dot(weights, q, total, out_dtype=tl.int32)


@triton.jit
def _scaled(total, scale, BITS: tl.constexpr):
    if BITS == 4:
        total = total >> 4
    return total.to(tl.float32) * scale


@triton.jit(do_not_specialize=["M"])
def finish_kernel(
    sums_ptr,
    s_ptr,
    scale_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    M,
    N,
    SPLIT: tl.constexpr,
    GATED: tl.constexpr,
    BN: tl.constexpr,
):
    """Add SPLIT sums, int32 or fp32, and end a product as its kernel does; one program for BN outputs of a token.

    `s_ptr` is None where activations are not quantized.
    """
    token = tl.program_id(0)
    output = tl.program_id(1) * BN
    outputs = output + tl.arange(0, BN)
    inside = outputs < N
    total = tl.zeros((BN,), sums_ptr.dtype.element_ty)
    for split in tl.static_range(SPLIT):
        total += tl.load(sums_ptr + ((split * M + token).to(tl.int64) * N + outputs), mask=inside, other=0)
    y = total.to(tl.float32) * tl.load(scale_ptr + outputs, mask=inside, other=0.0)
    if s_ptr is not None:
        y = y * tl.load(s_ptr + token)
    finish(y[:, None], bias_ptr, residual_ptr, y_ptr, token, output, M, N, 1, BN, GATED)


def specimens() -> list[Specimen]:
    """Return each kind of product, at the tiles that each card takes for it."""
    found = [
        _specimen(f"product {kind} {label}", tile, targets, **options)
        for kind, tile, targets in tiles.uses()
        for label, options in _KINDS.get(kind, {}).items()
    ]
    fixed = {"bias_ptr": None, "residual_ptr": None, "SPLIT": 4, "BN": tiles.FINISHED_AT_ONCE}
    signature = {"sums_ptr": "*i32", "s_ptr": "*fp32", "scale_ptr": "*fp32", "y_ptr": "*bf16", "M": "i32", "N": "i32"}
    return found + [
        Specimen(finish_kernel, f"product {label}", signature, {**fixed, "GATED": gated})
        for label, gated in (("sums", False), ("gated sums", True))
    ]


_KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "prefill": {
        "4-bit": {"bound": 2.5},
        "4-bit sums": {"sums": True, "bound": 2.5},
        "4-bit ragged": {"even": False},
        "4-bit gated": {"gated": True, "bound": 2.5},
        "8-bit": {"bits": 8, "bound": 1.0},
    },
    "decode": {
        "4-bit sums": {"split": 4, "sums": True, "bound": 6.0},
        "4-bit gated": {"gated": True, "bound": 6.0},
        "4-bit groups of 128": {"group_size": 128},
        "8-bit sums": {"bits": 8, "split": 4, "sums": True},
    },
    "grouped": {
        "4-bit groups of 32": {"group_size": 32},
        "4-bit groups of 64": {"group_size": 64},
        "4-bit groups of 128": {"group_size": 128},
        "8-bit groups of 128": {"group_size": 128, "bits": 8},
    },
}


def _specimen(
    name: str,
    tile: tiles.Tile,
    targets: tuple[str, ...],
    *,
    bits: int = 4,
    group_size: int | None = None,
    split: int = 1,
    sums: bool = False,
    gated: bool = False,
    even: bool = True,
    bound: float | None = None,
) -> Specimen:
    ending = {"s_ptr": "*fp32", "scale_ptr": "*fp32" if group_size is None else "*bf16", "bias_ptr": "*bf16"}
    signature = {
        **{"q_ptr": "*i8", "weight_ptr": "*u8", "y_ptr": "*i32" if sums else "*bf16"},
        **dict.fromkeys(("M", "N", "K", "q_stride", "weight_stride", "groups"), "i32"),
        **({} if sums else ending),
    }
    fixed = {
        **(dict.fromkeys(ending) if sums else {}),
        **{"residual_ptr": None, "ASM": True, "SUMS": sums, "GATED": gated},
        **tiles.constants(tile, bits, group_size, split),
        "EVEN": even,
    }
    return Specimen(
        product_kernel,
        f"{name} {tile}",
        signature,
        fixed,
        tile.num_warps,
        tile.num_stages,
        "mma",
        bound,
        targets=targets,
    )
