"""The packed linear layer, and `project`: several linears reading one input."""

from __future__ import annotations

from torch import Tensor, nn


def project(x: Tensor, *linears: nn.Module) -> tuple[Tensor, ...]:
    """Apply several linears to the same input `x` [..., K]; one output per linear, in their order."""
    return tuple(linear(x) for linear in linears)
