"""What packing takes of a GPU's memory, and whether it is there: asked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlapack.errors import WorkError
from vlapack.machine import gpu
from vlapack.methods.gptq import TOKENS_AT_ONCE
from vlapack.plan.selected import Group
from vlapack.quantize.calibration import MAX_TOKENS
from vlapack.recipe.recipe import Recipe

FP32 = 4
OF_A_WEIGHT = 3 * FP32 + 2
"""Bytes of each weight of a layer while it is rounded: transformed, its error, what is subtracted, and integers."""


def group_bytes(group: Group, recipe: Recipe, tokens: int = MAX_TOKENS) -> int:
    """Return the bytes that packing a group takes at most at once, about, beside the sample of its inputs.

    Args:
        group: layers that share one input
        recipe: how they are quantized
        tokens: rows of that sample
    """
    channels = group[0].in_features
    weights = FP32 * channels * sum(layer.out_features for layer in group)
    rounding = OF_A_WEIGHT * channels * max(layer.out_features for layer in group)
    if recipe.rounding != "gptq" or not group[0].executed:
        return weights + max(2 * weights, rounding)
    hessian = FP32 * channels**2
    inputs = FP32 * channels * (tokens + TOKENS_AT_ONCE)
    return weights + max(2 * weights, hessian + inputs, hessian + rounding)


def require_free(device: torch.device, needed: int, what: str, remedy: str) -> None:
    """Refuse work that a GPU has no memory for; a CPU is never asked.

    Args:
        device: where the work is to be done
        needed: its bytes, about
        what: the work, for the message
        remedy: what helps beside ending what else uses the card, for the message

    Raises:
        InputError: with the bytes that are needed and those that are free.
    """
    gpu.require_free(device, needed, f"{what} needs about {needed / 1e9:.2f} GB", remedy)


@contextmanager
def shortage_explained(device: torch.device) -> Iterator[None]:
    """Say in one line that a GPU's memory ran out after all, of which what finished is not lost.

    Raises:
        WorkError: it did in the block.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise WorkError(
            f"`device={str(device)!r}`: its memory ran out ({str(error).splitlines()[0]}); stop what else uses it and "
            "run the same command again: finished work is kept"
        ) from error


def peak_bytes(device: torch.device) -> int | None:
    """Return the bytes of this process's tensors on a GPU, at most so far; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
