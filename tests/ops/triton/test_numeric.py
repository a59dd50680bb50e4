"""Arithmetic under the interpreter is the hardware's: correctly rounded."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from vlapack.ops.triton import numeric

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@triton.jit
def rounding_kernel(x_ptr, y_ptr, rint_ptr, SIZE: tl.constexpr):
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    x = tl.load(x_ptr + place)
    tl.store(y_ptr + place, numeric.narrowed(x, y_ptr.dtype.element_ty))
    tl.store(rint_ptr + place, numeric.rint(x))


@triton.jit
def quotient_kernel(x_ptr, y_ptr, out_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(out_ptr + place, numeric.div_rn(tl.load(x_ptr + place), tl.load(y_ptr + place)))


@triton.jit
def gelu_kernel(x_ptr, out_ptr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(out_ptr + place, numeric.gelu_tanh(tl.load(x_ptr + place)))


def values():
    """Every pattern of fp32's upper half, with lower halves around the middle between two bf16 numbers, and halves."""
    upper = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32) << 16
    patterns = torch.cat([upper + lower for lower in (0, 0x7FFF, 0x8000, 0x8001)])
    return patterns.view(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrowing_rounds_half_to_even(dtype):
    x = values()
    y, integers = torch.empty_like(x, dtype=dtype), torch.empty_like(x)
    rounding_kernel[(4,)](x, y, integers, SIZE=len(x) // 4)
    assert torch.equal(y.nan_to_num(9), x.to(dtype).nan_to_num(9))
    assert torch.equal(y.isnan(), x.to(dtype).isnan())
    small = x.abs() < 1 << 22
    assert torch.equal(integers[small], x[small].round())


def test_quotients_are_correctly_rounded():
    x, y = torch.randn(2, 4096)
    out = torch.empty(4096)
    quotient_kernel[(1,)](x, y, out, SIZE=4096)
    assert torch.equal(out, x / y)


def test_gelu_is_torchs():
    x = torch.cat((torch.linspace(-8, 8, 4092), torch.tensor([-1e4, 1e4, torch.inf, torch.nan])))
    out = torch.empty_like(x)
    gelu_kernel[(1,)](x, out, SIZE=4096)
    expected = torch.nn.functional.gelu(x.double(), approximate="tanh")
    # torch's own fp32 is no nearer: it loses digits where 1 + tanh cancels.
    assert torch.allclose(out.double(), expected, rtol=2e-6, atol=1e-9, equal_nan=True)
