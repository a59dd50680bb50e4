"""What the kernels of both products share: which tile a program computes, how it reads, and what ends it.

Weights are the first operand of every `tl.dot`, so accumulators are [outputs, tokens]: as the second operand, the
nibbles would be shuffled between threads before each product. A tile has BN outputs and BM tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vlapack.ops.triton.numeric import gelu_tanh, narrowed


@triton.jit
def place(M, N, BM: tl.constexpr, BN: tl.constexpr, BAND: tl.constexpr):
    """Return the first token and the first output of this program.

    BAND tiles of tokens go through the outputs together, so that they find the weights in the cache.
    """
    program = tl.program_id(0)
    in_band = BAND * tl.cdiv(N, BN)
    first = program // in_band * BAND
    height = min(tl.cdiv(M, BM) - first, BAND)
    within = program % in_band
    return (first + within % height) * BM, within // height * BN


@triton.jit
def share(K, SPLIT: tl.constexpr):
    """Return the first and the end of the blocks of 128 channels that this program sums."""
    blocks = tl.cdiv(K, 128)
    each = tl.cdiv(blocks, SPLIT)
    first = tl.program_id(1) * each
    return first, min(first + each, blocks)


@triton.jit
def halves(row, inside, block, START: tl.constexpr, H: tl.constexpr, BITS: tl.constexpr, ASM: tl.constexpr):
    """Return H channels of a block from START on, and those 64 further, as two int8 [BN, H].

    Four-bit weights come as 16 times their value. `row` [BN, 1] points to where the outputs' weights begin.
    """
    columns = tl.arange(0, H)[None, :] + START
    if BITS == 8:
        first = tl.load(row + (block * 128 + columns), mask=inside, other=0).to(tl.int8, bitcast=True)
        second = tl.load(row + (block * 128 + 64 + columns), mask=inside, other=0).to(tl.int8, bitcast=True)
    else:
        pairs = tl.load(row + (block * 64 + columns), mask=inside, other=0)
        if ASM:
            # Four bytes at a time; the compiler would shift and mask each byte by itself.
            first, second = tl.inline_asm_elementwise(
                "{ .reg .b32 t; shl.b32 t, $2, 4; and.b32 $0, t, 0xF0F0F0F0; and.b32 $1, $2, 0xF0F0F0F0; }",
                "=r,=r,r",
                [pairs],
                dtype=(tl.int8, tl.int8),
                is_pure=True,
                pack=4,
            )
        else:
            first = (pairs << 4).to(tl.int8, bitcast=True)
            second = (pairs & 0xF0).to(tl.int8, bitcast=True)
    return first, second


@triton.jit
def inputs(column, inside, channel, K, H: tl.constexpr, EVEN: tl.constexpr):
    """Return H channels of the tokens from `channel` on, [H, BM]; `column` [1, BM] points to where tokens begin.

    EVEN: K is a multiple of 128, so no channel needs a mask.
    """
    channels = channel + tl.arange(0, H)[:, None]
    if EVEN:
        return tl.load(column + channels, mask=inside, other=0)
    return tl.load(column + channels, mask=inside & (channels < K), other=0)


@triton.jit
def group_scale(row, inside, group, groups):
    """Return the scales of a group's weights, fp32 [BN, 1]; 0 beyond the last group."""
    group += tl.zeros((1, 1), tl.int32)  # a tensor under the interpreter, too: a mask must be one
    return tl.load(row + group, mask=inside & (group < groups), other=0.0).to(tl.float32)


@triton.jit
def finish(
    y, bias_ptr, residual_ptr, y_ptr, token, output, M, N, BM: tl.constexpr, BN: tl.constexpr, GATED: tl.constexpr
):
    """Add the bias to `y` fp32 [BN, BM], gate, round, add the residual, and store it by tokens.

    GATED: outputs are gate and up in turns, and half as many come out.
    """
    tokens = token + tl.arange(0, BM)
    outputs = output + tl.arange(0, BN)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + outputs, mask=outputs < N, other=0.0).to(tl.float32)[:, None]
    if GATED:
        gate, up = tl.split(tl.permute(tl.reshape(y, (BN // 2, 2, BM)), (0, 2, 1)))
        y = gelu_tanh(gate) * up
        outputs = output // 2 + tl.arange(0, BN // 2)
        N = N // 2
    inside = (tokens < M)[None, :] & (outputs < N)[:, None]
    places = tokens.to(tl.int64)[None, :] * N + outputs[:, None]
    rounded = narrowed(y, y_ptr.dtype.element_ty)
    if residual_ptr is not None:
        # As torch adds two tensors of that dtype: the product is rounded first.
        beside = tl.load(residual_ptr + places, mask=inside, other=0.0).to(tl.float32)
        rounded = narrowed(rounded.to(tl.float32) + beside, y_ptr.dtype.element_ty)
    tl.store(y_ptr + places, rounded, mask=inside)
