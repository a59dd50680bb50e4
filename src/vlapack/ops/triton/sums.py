"""A product that the next kernel ends: int32 sums [S, M, N] of S shares of its channels, its scales and its bias.

A split product's second kernel would only add, scale and round what the next one reads. So `product.int_sums` leaves
the sums as they are, and who reads them does that: in the order of `integers.finish_kernel`, so that the numbers are
the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops.triton.numeric import rounded
from vlapack.ops.triton.tensors import checked, described, matrix

STORED = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
"""Triton's names of the dtypes that results are rounded to."""


@triton.jit
def ended_at(
    product_ptr, part_stride, step_ptr, scale_ptr, bias_ptr, output, inside, PARTS: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """One token's outputs of a product, as fp32 numbers of DTYPE.

    Args:
        product_ptr: where the token's outputs begin: of DTYPE if PARTS is 0, else int32 sums
        part_stride: from one share's sums to the next's
        step_ptr: the step [1] fp32 of the token's activations; of sums only, as the next two
        scale_ptr: [N] fp32
        bias_ptr: [N] floating or None
        output: which outputs
        inside: which of them exist; the others are 0, or NaN in a token that has NaN everywhere
        PARTS: S, or 0: the product is ended
        DTYPE: what is rounded to
    """
    if PARTS == 0:
        y = tl.load(product_ptr + output, mask=inside, other=0.0).to(tl.float32)
    else:
        total = tl.load(product_ptr + output, mask=inside, other=0)
        for part in tl.static_range(1, PARTS):
            total += tl.load(product_ptr + part * part_stride + output, mask=inside, other=0)
        y = total.to(tl.float32) * tl.load(scale_ptr + output, mask=inside, other=0.0) * tl.load(step_ptr)
        if bias_ptr is not None:
            y += tl.load(bias_ptr + output, mask=inside, other=0.0).to(tl.float32)
        y = rounded(y, DTYPE)
    return y


@dataclass(frozen=True)
class Ending:
    """A product as `ended_at` reads it.

    Attributes:
        values: [M, N] floating, or sums [S, M, N] int32; neighboring outputs side by side.
        s: [M, 1] fp32; of sums only, as the next two.
        weight_scale: [N, 1] fp32.
        bias: [N] floating or None.
    """

    values: Tensor
    s: Tensor | None = None
    weight_scale: Tensor | None = None
    bias: Tensor | None = None

    @property
    def parts(self) -> int:
        """S, or 0 where the product is ended."""
        return len(self.values) if self.values.dim() == 3 else 0

    @property
    def arguments(self) -> tuple[Tensor | int | None, ...]:
        """What a kernel takes: tensor, stride of tokens, stride of shares, steps, scales, bias."""
        share = self.values.stride(0) if self.parts else 0
        return self.values, self.values.stride(-2), share, self.s, self.weight_scale, self.bias


NOTHING = (None, 0, 0, None, None, None)
"""`Ending.arguments` where there is no product."""


def ending(
    name: str,
    values: Tensor,
    s: Tensor | None,
    weight_scale: Tensor | None,
    bias: Tensor | None,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Ending:
    """Return a product [M, N] = `shape`, ended in `dtype` or as sums, ready for a kernel.

    Raises:
        InputError: A tensor does not fit, or sums come without what ends them.
    """
    if values.dim() != 3:
        if values.dtype != dtype or values.shape != shape or values.device != device:
            wanted = f"{dtype} {list(shape)} on {device}, or int32 sums of it"
            raise InputError(f"{name} must be {wanted}, not {described(values)}")
        return Ending(matrix(name, values))
    if values.dtype != torch.int32 or values.shape[1:] != shape or not len(values) or values.device != device:
        wanted = f"int32 sums [S, {shape[0]}, {shape[1]}] on {device}"
        raise InputError(f"{name} must be {wanted}, not {described(values)}")
    if s is None or weight_scale is None:
        missing = "s" if s is None else "weight_scale"
        raise InputError(f"{name} is sums of a product, which `{missing}` ends: it is None")
    if bias is not None and not bias.is_floating_point():
        raise InputError(f"bias must be floating, not {bias.dtype}")
    return Ending(
        values if values.stride(2) == 1 else values.contiguous(),
        checked("s", s, torch.float32, (shape[0], 1), device),
        checked("weight_scale", weight_scale, torch.float32, (shape[1], 1), device),
        None if bias is None else checked("bias", bias, bias.dtype, (shape[1],), device),
    )
