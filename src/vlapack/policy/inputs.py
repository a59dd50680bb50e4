"""Observations as the network reads them, one or many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the network reads, for B observations.

    Attributes:
        images: [B, cameras, 3, H, W], float32 in [-1, 1], or uint8 where a GPU is to scale them.
        image_masks: bool [B, cameras].
        tokens: int64 [B, L].
        token_masks: bool [B, L].
        state: float32 [B, action_dim], normalized, zero-padded.
        robot_state: float64 [B, D], in the robot's units; what delta actions are added to.
    """

    images: Tensor
    image_masks: Tensor
    tokens: Tensor
    token_masks: Tensor
    state: Tensor
    robot_state: np.ndarray

    @property
    def network(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The arguments of `Pi0.sample_actions`, up to the noise."""
        return self.images, self.image_masks, self.tokens, self.token_masks, self.state

    @classmethod
    def stack(cls, parts: Sequence[Inputs]) -> Inputs:
        """Join the batches of several."""
        images, image_masks, tokens, token_masks, state = (
            torch.cat(column) for column in zip(*(part.network for part in parts), strict=True)
        )
        robot_state = np.concatenate([part.robot_state for part in parts])
        return cls(images, image_masks, tokens, token_masks, state, robot_state)
