"""The derivative of an activation step by its inputs, on engines that transform rows themselves.

A step's transpose is a step, too: the transposed blocks in the other order, and the inverse permutation between them.
Both are made once per tensor: a kernel that recognizes blocks by their values would have to check new ones every call.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vlapack.ops import reference
from vlapack.ops.known import Known


def _inverse(permutation: Tensor) -> Tensor:
    order = permutation.to(torch.int64)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return inverse


def _transpose(blocks: Tensor) -> Tensor:
    # A copy, though Hadamard blocks are symmetric: `Known` must not hold the tensor that it is asked for.
    return blocks.transpose(-1, -2).clone(memory_format=torch.contiguous_format)


def _kept(find: Callable[[Tensor], Tensor]) -> Callable[[Tensor | None], Tensor | None]:
    known: Known[Tensor | None] = Known(find, unknown=None)

    def of(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        found = known(tensor)
        return find(tensor) if found is None else found

    return of


inverse_of = _kept(_inverse)
transpose_of = _kept(_transpose)


def through(transform: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `reference.activation_gradient` by an engine's `transform_activation`."""

    def activation_gradient(  # noqa: PLR0917 - torch's custom ops take tensors by position
        gradient: Tensor,
        x: Tensor | None = None,
        smooth: Tensor | None = None,
        permutation: Tensor | None = None,
        rotation: Tensor | None = None,
        scale: Tensor | None = None,
        bits: int = 8,
        pre_rotation: Tensor | None = None,
        *,
        dtype: torch.dtype,
    ) -> Tensor:
        if scale is not None:
            assert x is not None
            y = transform(x, smooth, permutation, rotation, pre_rotation)
            gradient = gradient.masked_fill(reference.clipped(y, scale, bits), 0.0)
        # The last step's transpose comes first: what was the second rotation takes the place of the first.
        found = transform(gradient, None, inverse_of(permutation), transpose_of(pre_rotation), transpose_of(rotation))
        if smooth is not None:
            found /= smooth
        return found.to(dtype)

    return activation_gradient
