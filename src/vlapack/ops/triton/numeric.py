"""Arithmetic of kernels that must give the reference's numbers, compiled and under Triton's interpreter alike.

`/` compiles to an approximate division, and rounding is no operation of Triton's at all; the interpreter truncates what
it should round to bf16. Each of these would change integers, so kernels use the functions here instead.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether kernels run under the interpreter; fixed when the module is imported, as Triton itself does it."""
INFINITY_BITS = tl.constexpr(0x7F800000)
"""The bits of fp32's infinity: the magnitudes' bits order as the magnitudes do, and NaN's are above it."""


@triton.jit
def div_rn(x, divisor):
    """x / divisor in fp32, rounded correctly; either may be a scalar."""
    return tl.div_rn(x, divisor)


@triton.jit
def rint(x):
    """The nearest integer, half to even, as fp32; right below 2²² in magnitude."""
    # 1.5 * 2²³ leaves the sum no bits for a fraction, so the addition itself rounds.
    return (x + 12582912.0) - 12582912.0


@triton.jit
def narrowed(x, DTYPE: tl.constexpr):
    """fp32 → DTYPE, half to even."""
    if INTERPRETED and DTYPE == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        nearest = bits + 0x7FFF + ((bits >> 16) & 1)
        bits = tl.where(x == x, nearest, bits | 0x400000)  # NaN stays NaN, whatever its payload
        narrow = ((bits >> 16) & 0xFFFF).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        narrow = x.to(DTYPE)
    return narrow


@triton.jit
def rounded(x, DTYPE: tl.constexpr):
    """fp32 → the fp32 number that DTYPE would hold in its place."""
    return narrowed(x, DTYPE).to(tl.float32)


@triton.jit
def dot(a, b, total):
    """total + a b in fp32 for floats of any kind; the interpreter would take bf16's bits for integers."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def magnitude_bits(x):
    """The bits of |x| as int32: their maximum is the largest magnitude, and NaN is larger than infinity."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def gelu_tanh(x):
    """GELU by its tanh approximation: x / (1 + exp(-2z)) is x (1 + tanh z) / 2, without its cancellation below 0."""
    z = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    # Two reciprocal roots make a reciprocal, at a fraction of what an exact division costs.
    root = tl.rsqrt(1.0 + tl.exp(-2.0 * z))
    return x * root * root


@triton.jit
def hadamard(y, SIZE: tl.constexpr, LEVELS: tl.constexpr, NORMALIZER: tl.constexpr):
    """Multiply every 2^LEVELS neighbours of `y` [SIZE] by Sylvester's Hadamard matrix, and by NORMALIZER."""
    for level in tl.static_range(LEVELS):
        y = _butterfly(y, SIZE, 1 << level)
    return y * NORMALIZER


@triton.jit
def _butterfly(y, SIZE: tl.constexpr, DISTANCE: tl.constexpr):
    pairs = tl.reshape(y, (SIZE // (2 * DISTANCE), 2, DISTANCE))
    first, second = tl.split(tl.permute(pairs, (0, 2, 1)))
    pairs = tl.permute(tl.join(first + second, first - second), (0, 2, 1))
    return tl.reshape(pairs, (SIZE,))
