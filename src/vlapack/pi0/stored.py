"""Float weights held as a file stores them, and widened only where and when they are used.

A bf16 weight times an fp32 input is the same product as with the weight widened beforehand, at half the memory. And
π0.5's embedding table has 257152 rows of which a prompt reads some tens: it may stay in the file altogether.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class StoredLinear(nn.Module):
    """y = x Wᵀ + b in the dtype of x; called like the `nn.Linear` that it replaces.

    Args:
        weight: [N, K], floating.
        bias: [N], or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Keep the tensors as they are."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., K] → [..., N]."""
        y: Tensor = _Widened.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return y


class _Widened(torch.autograd.Function):
    """`linear`, which keeps the narrow weight for its backward pass and widens it again there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`x` [..., K]; `weight` [N, K] and `bias` [N] of any floating dtype."""
        ctx.save_for_backward(weight)
        return nn.functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x; what is stored has none."""
        (weight,) = ctx.saved_tensors
        return gradient @ weight.to(gradient.dtype), None, None


class StoredEmbedding(nn.Module):
    """Rows of a table in the dtype of the arithmetic; called like the `nn.Embedding` that it replaces.

    Args:
        weight: [V, D], floating, or int8 with `scale`; a view into a mapped file keeps it mapped.
        scale: [V, 1] fp32: row v is `weight[v] * scale[v]`. None for floating rows.
        dtype: Of the rows returned.
    """

    weight: Tensor
    scale: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor | None = None, dtype: torch.dtype = torch.float32) -> None:
        """Keep the tensors as they are."""
        super().__init__()
        self.dtype = dtype
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [...] → rows [..., D]."""
        rows = self.weight[tokens]
        return (rows if self.scale is None else rows.float() * self.scale[tokens]).to(self.dtype)
