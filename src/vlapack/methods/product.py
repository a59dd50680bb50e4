"""Large fp32 products on a CPU, by the faster of the two libraries that torch brings.

torch multiplies fp32 by MKL, which on AMD's CPUs has kernels for AVX2 only: on a core of Zen 5 that is 75-100 GFLOP/s,
where oneDNN's reach 180-210. Where weights are rounded by GPTQ and float chunks are computed at full size, such
products are most of the time. Small ones stay MKL's: they are soon over, and their last bits as they were.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGE = 2**27
"""Multiply-adds from which on oneDNN is asked: a few milliseconds of a core."""


def add_product(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Add `a` [M, K] times `b` [K, N] to `out` [M, N] in place, and return it; all of one dtype, on one device."""
    if by_onednn(a, len(a) * b.numel()):
        return out.add_(_onednn(a, b.T))
    return out.addmm_(a, b)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x` [..., K] times `weight` [N, K], transposed, plus `bias` [N]: `torch.nn.functional.linear`."""
    if by_onednn(x, x.shape[:-1].numel() * weight.numel()):
        return _onednn(x, weight, bias)
    return torch.nn.functional.linear(x, weight, bias)


def by_onednn(x: Tensor, multiply_adds: int) -> bool:
    """Whether oneDNN multiplies `x`: torch has it, and the product is large and of fp32 on the CPU.

    Not in a compiled graph: `torch.compile` takes this op of oneDNN's for constant weights only, and a graph that
    depends on the size would be compiled again for other sizes.
    """
    return (
        not torch.compiler.is_compiling()
        and multiply_adds >= LARGE
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # For tensors with gaps between their rows oneDNN has three plain loops.
    if not weight.T.is_contiguous():
        weight = weight.contiguous()
    # What torch.compile calls for a frozen linear layer. The public way, tensors in oneDNN's layout, copies them.
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return y
