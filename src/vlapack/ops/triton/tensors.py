"""Checks of tensors before their addresses go to a kernel, which would read whatever is there."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from vlapack.errors import InputError

WIDEST = 16384
"""Channels of the widest row that a program holds: 32 registers for each thread of 16 warps."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

T = TypeVar("T", Tensor, Tensor | None)


def described(tensor: Tensor) -> str:
    """Say what a tensor is, for errors."""
    return f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"


def checked(name: str, tensor: T, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> T:
    """Return `tensor` contiguous, if it is one of that dtype and shape on the device; None stays None."""
    if tensor is None:
        return tensor
    if tensor.dtype != dtype or tensor.shape != shape or tensor.device != device:
        raise InputError(f"{name} must be {dtype} {list(shape)} on {device}, not {described(tensor)}")
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def matrix(name: str, x: Tensor) -> Tensor:
    """Return floating `x` [M, K] with neighboring channels side by side.

    Raises:
        InputError: It is no such matrix, or its rows are wider than the kernel's.
    """
    if x.dim() != 2 or not x.dtype.is_floating_point:
        raise InputError(f"{name} must be a floating matrix [M, K], not {x.dtype} {list(x.shape)}")
    check_width(name, x.shape[1])
    x = x if x.dtype in FLOATS else x.float()
    return x if x.stride(1) == 1 else x.contiguous()


def check_width(name: str, channels: int) -> None:
    """Raise InputError if rows of so many channels are more than a kernel takes."""
    if not 0 < channels <= WIDEST:
        raise InputError(f"{name} has rows of {channels} channels: this engine takes 1 to {WIDEST}")
