"""What must be known of a layer's constant tensors, found once for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

T = TypeVar("T")


class Known(Generic[T]):
    """The results of a function by tensor; each is kept as long as its tensor is and does not change.

    Args:
        find: The function. Its result must not hold the tensor, which would then be kept forever.
        unknown: The result for a new tensor while a CUDA graph is captured: nothing may wait for the device then, and
            memory that is taken belongs to the graph.
    """

    def __init__(self, find: Callable[[Tensor], T], unknown: T) -> None:
        """Begin with nothing."""
        self._find = find
        self._unknown = unknown
        self._found = WeakTensorKeyDictionary()

    def __call__(self, tensor: Tensor) -> T:
        """Return what `find` says of a tensor."""
        version = 0 if tensor.is_inference() else tensor._version
        found: tuple[int, T] | None = self._found.get(tensor)  # type: ignore[no-untyped-call]
        if found is None or found[0] != version:
            if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
                return self._unknown
            found = version, self._find(tensor)
            self._found[tensor] = found
        return found[1]
