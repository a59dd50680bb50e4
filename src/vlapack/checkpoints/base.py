"""What every kind of checkpoint folder is opened as: weights by name, and all that turns an observation into actions.

openpi spreads this over a Python `TrainConfig`, a weights file and an assets folder; here it is one value, so that
quantization, evaluation and serving read float folders and packs through the same few names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.documents import read_json as read_json  # noqa: PLC0414 - where the formats above look for it


class Checkpoint(Protocol):
    """An opened checkpoint folder: its tensors by name, and everything else that acting needs.

    `open_checkpoint` returns one. openpi's folders, LeRobot's and packs all have these members.
    """

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    @property
    def config(self) -> PolicyConfig:
        """Everything about the policy that its weights do not say: sizes, robot layout, normalization."""
        ...

    @property
    def normalization(self) -> Normalization | None:
        """Statistics of state and actions; None if none were found."""
        ...

    @property
    def tokenizer(self) -> Path | None:
        """The SentencePiece model's file; None if none was found."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata that a policy server sends on connect."""
        ...

    def names(self) -> list[str]:
        """Return every tensor's name, as the file spells it."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one tensor without reading it.

        Args:
            name: one of `names`

        Raises:
            InputError: there is no tensor of this name
        """
        ...

    def dtype(self, name: str) -> torch.dtype:
        """Return the element type of one tensor without reading it.

        Args:
            name: one of `names`

        Raises:
            InputError: there is no tensor of this name
        """
        ...

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor in memory of its own; a pack's is checked against its checksum.

        Args:
            name: one of `names`

        Raises:
            InputError: there is no tensor of this name, or it is damaged
        """
        ...

    def mapped(self, name: str) -> torch.Tensor:
        """Return one tensor, left on disk if possible: its pages come into memory when rows are read.

        Args:
            name: one of `names`

        Raises:
            InputError: there is no tensor of this name
        """
        ...
