"""Captured runs without a GPU: observations for them, and recorders that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from openpi_golden import PREFIX_INPUTS
from torch import Tensor

from vlapack.pi0.recorder import Recorder

INPUTS = (*PREFIX_INPUTS, "state", "noise")


class Recorded:
    """Captures by `Recorder`s and keeps them."""

    def __init__(self) -> None:
        self.runs: list[Recorder] = []

    def __call__(self, run: Callable[[], Any]) -> Recorder:
        self.runs.append(Recorder(run))
        return self.runs[-1]


def rows(batch: dict[str, Tensor], *numbers: int, words: int | None = None) -> dict[str, Tensor]:
    """Some observations of a batch, their prompts cut to so many tokens."""
    some = {name: batch[name][list(numbers)] for name in INPUTS}
    if words is not None:
        some["token_masks"] = some["token_masks"] & (torch.arange(some["tokens"].shape[1]) < words)
    return some
