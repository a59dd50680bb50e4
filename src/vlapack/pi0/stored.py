"""Float weights held as a file stores them, and widened only where and when they are used.

A bf16 weight times an fp32 input is the same product as with the weight widened beforehand, at half the memory. And
π0.5's embedding table has 257152 rows of which a prompt reads some tens: it may stay in the file altogether.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.methods.product import linear


class StoredLinear(nn.Module):
    """y = x Wᵀ + b in the dtype of x; called like the `nn.Linear` that it replaces.

    Args:
        weight: [N, K], floating.
        bias: [N], or None.

    Attributes:
        narrow_gradient: whether gradients are multiplied in the weight's dtype, not in theirs: for those who need three
            digits of a gradient, three times as fast in bf16 on CPUs that have instructions for it.
        workspace: [≥ N K] in the dtype of x, where the weight is widened, on its way forward and back; layers may
            share one. None: in memory of its own each time, whose pages the kernel has to map and to zero.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Keep the tensors as they are."""
        super().__init__()
        self.narrow_gradient = False
        self.workspace: Tensor | None = None
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., K] → [..., N]."""
        how = (self.narrow_gradient, self.workspace)
        y: Tensor = _Widened.apply(x, self.weight, self.bias, *how)  # type: ignore[no-untyped-call]
        return y


class _Widened(torch.autograd.Function):
    """`linear`, which keeps the narrow weight for its backward pass and widens it again there."""

    @staticmethod
    def forward(  # noqa: PLR0917 - torch gives no names
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, narrow: bool, workspace: Tensor | None
    ) -> Tensor:
        """`x` [..., K]; `weight` [N, K] and `bias` [N] of any floating dtype."""
        ctx.save_for_backward(weight)
        ctx.narrow, ctx.workspace = narrow, workspace
        wide = _widen(weight, x.dtype, workspace)
        return linear(x, wide, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """The gradient of x; what is stored has none."""
        (weight,) = ctx.saved_tensors
        if ctx.narrow:
            found = (gradient.to(weight.dtype) @ weight).to(gradient.dtype)
        else:
            found = gradient @ _widen(weight, gradient.dtype, ctx.workspace)
        return found, None, None, None, None


def _widen(weight: Tensor, dtype: torch.dtype, workspace: Tensor | None) -> Tensor:
    if workspace is None or weight.dtype == dtype:
        return weight.to(dtype)
    return workspace[: weight.numel()].view(weight.shape).copy_(weight)


class StoredEmbedding(nn.Module):
    """Rows of a table in the dtype of the arithmetic; called like the `nn.Embedding` that it replaces.

    Args:
        weight: [V, D], floating, or int8 with `scale`; a view into a mapped file keeps it mapped.
        scale: [V, 1] fp32: row v is `weight[v] * scale[v]`. None for floating rows.
        dtype: Of the rows returned.
        stays: Whether `model.to(device)` leaves the table where it is, as it does with a mapped one: of π0.5's 1 GB a
            prompt reads some tens of rows, which are cheaper to send.
    """

    weight: Tensor
    scale: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        stays: bool = False,
    ) -> None:
        """Keep the tensors as they are."""
        super().__init__()
        self.dtype = dtype
        self.stays = stays
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        if self.stays:
            return self
        module: nn.Module = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return module

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [...] → rows [..., D]."""
        rows = self.weight[tokens]
        return (rows if self.scale is None else rows.float() * self.scale[tokens]).to(self.dtype)
