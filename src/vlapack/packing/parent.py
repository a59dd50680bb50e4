"""The float checkpoint that a pack is made of, as packing sees it: canonical names, and no vocabulary heads."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlapack.checkpoints.assets import NORM_STATS_FILE, TOKENIZER_FILE, missing_norm_stats, missing_tokenizer
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.finite import require_finite
from vlapack.checkpoints.pack.card import notices, processor_files
from vlapack.checkpoints.pack.config import format_of
from vlapack.checkpoints.pack.contents import without_heads
from vlapack.console import say, size
from vlapack.fingerprint import UNUSED, WEIGHTS_ONLY, Fingerprint, digest, digest_observations, digest_weights
from vlapack.pi0.names import EMBEDDING, canonical_name
from vlapack.plan.sizes import Tensors
from vlapack.recipe.needs import needs_activations
from vlapack.recipe.recipe import Recipe


class Parent:
    """A checkpoint without its vocabulary heads; the one that is tied to the embedding takes the embedding's name.

    Args:
        checkpoint: an opened float folder.

    Raises:
        InputError: it has no normalization statistics or no tokenizer, without which a pack could not act.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Look at the names only."""
        if checkpoint.normalization is None:
            raise missing_norm_stats(checkpoint.path, checkpoint.config.asset_id)
        if checkpoint.tokenizer is None:
            raise missing_tokenizer(checkpoint.path)
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.normalization = checkpoint.normalization
        self.tokenizer: Path = checkpoint.tokenizer
        self._names = without_heads({canonical_name(name): name for name in checkpoint.names()})
        self.tensors: Tensors = {
            name: (tuple(checkpoint.shape(stored)), checkpoint.dtype(stored)) for name, stored in self._names.items()
        }
        self.nbytes = sum(
            checkpoint.dtype(name).itemsize * math.prod(checkpoint.shape(name)) for name in checkpoint.names()
        )

    def read(self, name: str) -> Tensor:
        """One tensor, by its canonical name, in memory of its own."""
        return self.checkpoint.read(self._names[name])

    def mapped(self, name: str) -> Tensor:
        """One tensor, left in its file where the checkpoint can: for rows of which few are read."""
        return self.checkpoint.mapped(self._names[name])

    def reader(self, device: torch.device) -> Callable[[str], Tensor]:
        """Return what reads a tensor onto a device; the embedding, of which a prompt needs some rows, stays behind."""
        return lambda name: self.read(name) if name == EMBEDDING else self.read(name).to(device)

    def fingerprint(self, recipe: Recipe, observations: Sequence[Mapping[str, Any]] | None) -> Fingerprint:
        """Hash what decides the pack; the first time this reads every weight once.

        Raises:
            InputError: a weight is NaN or infinite, even one that is not packed: no pack of it could act.
        """
        if not needs_activations(recipe):
            calibration = UNUSED
        else:
            calibration = WEIGHTS_ONLY if observations is None else digest_observations(observations)
        policy = {
            "config": self.config.to_dict(),
            "normalization": self.normalization.to_dict(),
            "tokenizer": self.tokenizer.read_bytes().hex(),
        }
        return Fingerprint(
            format_version=format_of(recipe),
            weights=self._weights_digest,
            policy=digest(policy),
            recipe=recipe.digest(),
            calibration=calibration,
        )

    @cached_property
    def _weights_digest(self) -> str:
        say(f"hashing {size(self.nbytes)} of weights in {self.checkpoint.path}")
        return digest_weights(self._names, self._read_finite)

    def _read_finite(self, name: str) -> Tensor:
        tensor = self.read(name)
        require_finite(tensor, self.checkpoint.path, self._names[name])
        return tensor

    def files(self) -> dict[str, bytes]:
        """The small files that the pack takes along, by name."""
        return {
            NORM_STATS_FILE: (json.dumps(self.normalization.to_dict(), indent=2) + "\n").encode(),
            TOKENIZER_FILE: self.tokenizer.read_bytes(),
            **processor_files(self.config, self.normalization),
            **notices(self.config),
        }
