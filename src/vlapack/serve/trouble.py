"""What a GPU's failure means for a server: it goes on after a lack of memory, and ends when the device is lost.

After an illegal access or a reset, a process cannot use its CUDA context again: every later call fails, or worse. So
such a server answers nobody any more, and its supervisor starts it again.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlapack.errors import WorkError

MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
DEVICE = (
    "CUDA error",
    "CUDA driver error",
    "HIP error",
    "Triton Error",
    "illegal memory access",
    "device-side assert",
    "CUBLAS_STATUS_",
    "HIPBLAS_STATUS_",
    "CUDNN_STATUS_",
    "CUDA unknown error",
    "driver shutting down",
)
"""How torch, Triton and the libraries below them begin what they say of a device."""
REFUSED = ("STATUS_NOT_SUPPORTED", "STATUS_INVALID_VALUE")
"""A library's answer to what it cannot do; the device is as well as before."""


class MemoryShortError(WorkError):
    """The GPU had too little memory for a batch; the next one may fit."""


class DeviceLostError(WorkError):
    """The GPU cannot be used by this process any more."""


def named(error: BaseException) -> MemoryShortError | DeviceLostError | None:
    """Return what an error means, if it is the device's; None for any other."""
    text = str(error)
    if isinstance(error, WorkError):  # it has a name
        return None
    if isinstance(error, torch.OutOfMemoryError) or (_is_devices(error) and any(sign in text for sign in MEMORY)):
        return MemoryShortError(
            "the GPU is out of memory, and this was not answered; stop what else uses it, or ask again"
        )
    if _is_devices(error):
        first = text.strip().partition("\n")[0]
        return DeviceLostError(f"the GPU failed, and this server ends: start it again ({first:.200})")
    return None


@contextmanager
def device_trouble_named() -> Iterator[None]:
    """Raise a device's error under our own name; after a lack of memory, what the attempt held is given back first.

    Raises:
        MemoryShortError: in place of torch's error.
        DeviceLostError: likewise.
    """
    try:
        yield
    except RuntimeError as error:
        trouble = named(error)
        if trouble is None:
            raise
        # Its frames hold the tensors that the attempt had made.
        traceback.clear_frames(error.__traceback__)
    else:
        return
    if isinstance(trouble, MemoryShortError):
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
    raise trouble


def _is_devices(error: BaseException) -> bool:
    accelerators = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)  # newer than our oldest torch
    text = str(error)
    if isinstance(error, accelerators):
        return True
    return (
        isinstance(error, RuntimeError)
        and any(sign in text for sign in DEVICE)
        and not any(sign in text for sign in REFUSED)
    )
