"""Where a policy is loaded: on which device, in which type it computes there, and whether it fits."""

from __future__ import annotations

import math

import torch

from vlapack.checkpoints.base import Checkpoint
from vlapack.machine import gpu
from vlapack.ops import engine
from vlapack.pi0.load import arithmetic
from vlapack.pi0.names import EMBEDDING, EXPERT_HEAD, TIED_EMBEDDING, canonical_name, never_executed
from vlapack.pi0.savings import Savings

MERGED_AT_ONCE = 2
"""Layers that there are twice while a GPU's network is made ready: gate and up become one (`pi0.fused`)."""


def usable(device: str | torch.device) -> torch.device:
    """Return a device that is there and has an engine, a GPU with its number.

    Raises:
        InputError: as in `gpu.find_device` and `engine.active`.
    """
    found = gpu.find_device(device)
    if found.type == "cuda":
        engine.active(found)
    return found


def default_dtype(device: torch.device) -> torch.dtype:
    """Return the type of the float arithmetic where nobody names one: openpi's bf16 on GPUs, fp32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def require_room(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, savings: Savings) -> None:
    """Refuse, before anything is loaded, a policy that does not fit into a GPU's memory.

    Raises:
        InputError: with the bytes that it needs and those that are free.
    """
    if device.type != "cuda":
        return
    held, largest = device_bytes(checkpoint, dtype, savings)
    needed = held + MERGED_AT_ONCE * largest
    gpu.require_free(
        device,
        needed,
        f"{checkpoint.path} needs {needed / 1e9:.2f} GB ({held / 1e9:.2f} of weights, and two of its layers while they "
        "are merged)",
        "quantize more of the policy, or give cpu",
    )


def device_bytes(checkpoint: Checkpoint, dtype: torch.dtype, savings: Savings) -> tuple[int, int]:
    """Return the bytes that a policy's weights take on a device, about, and those of its largest tensor.

    Activations come on top: tens of megabytes for one observation.
    """
    unread = never_executed(checkpoint.config.architecture) if savings.last_layer else frozenset()
    held, largest = 0, 0
    for name in checkpoint.names():
        ours = canonical_name(name)
        module, _, kind = ours.rpartition(".")
        on_disk = savings.embedding_rows and (ours == TIED_EMBEDDING or ours.startswith(EMBEDDING))
        if module in unread or on_disk or (savings.lm_heads and ours == EXPERT_HEAD):
            continue
        shape, stored = checkpoint.shape(name), checkpoint.dtype(name)
        width = stored.itemsize
        if stored.is_floating_point and kind in ("weight", "bias"):
            computes = arithmetic(ours, dtype).itemsize
            width = min(width, computes) if len(shape) > 1 else computes
        elements = math.prod(shape)
        held += elements * width
        largest = max(largest, elements * stored.itemsize)
    return held, largest
