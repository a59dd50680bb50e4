"""What every folder answers alike, float checkpoint or pack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.checkpoints.weights import Weights


@dataclass(frozen=True, kw_only=True)
class CheckpointFolder:
    """The part of `checkpoints.base.Checkpoint` that does not depend on the kind of folder."""

    path: Path
    config: PolicyConfig
    weights: Weights
    normalization: Normalization | None
    tokenizer: Path | None

    def __post_init__(self) -> None:
        """Refuse statistics of another robot."""
        if self.normalization is not None:
            self.normalization.require_dimensions(self.config)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a policy server sends on connect."""
        return self.config.metadata

    def names(self) -> list[str]:
        """Every tensor's name, as the file spells it."""
        return self.weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        return self.weights.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Element type of one tensor, without reading it."""
        return self.weights.dtype(name)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in memory of its own."""
        return self.weights.read(name)

    def mapped(self, name: str) -> torch.Tensor:
        """One tensor, left on disk."""
        return self.weights.mapped(name)


@dataclass(frozen=True, kw_only=True)
class FloatCheckpoint(CheckpointFolder):
    """A float policy's folder, from any of the formats; its tensors have openpi's names."""
