"""Weights and inputs drawn from a seed, for the comparisons with openpi; importable with and without openpi."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from vlapack.pi0.config import Pi0Config


@dataclass(frozen=True)
class Inputs:
    """One batch, in the shapes of `vlapack.pi0.flow.Pi0.sample_actions`."""

    images: Tensor
    image_masks: Tensor
    tokens: Tensor
    token_masks: Tensor
    state: Tensor
    noise: Tensor


def seeded_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw one fp32 weight from its name alone, so that two processes agree without a file between them.

    No part is left at a value that would hide a mistake: norms, biases and adaRMS projections are far from
    their neutral values.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    values = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return values.mul_(0.2)
    if len(shape) == 1:
        # LayerNorm multiplies by its weight, Gemma's RMSNorm by 1 + weight.
        return values.mul_(0.3).add_(1.0 if "vision_tower" in name else 0.0)
    return values.mul_(values[0].numel() ** -0.5)


def random_inputs(config: Pi0Config, image_masks: list[list[bool]], lengths: list[int], seed: int) -> Inputs:
    """Draw a batch; row i has the cameras of `image_masks[i]` and a prompt of `lengths[i]` tokens."""
    generator = torch.Generator().manual_seed(seed)
    count, size = len(lengths), config.vision.image_size
    slots = torch.arange(config.max_token_len)
    return Inputs(
        images=torch.rand(count, config.num_cameras, 3, size, size, generator=generator) * 2 - 1,
        image_masks=torch.tensor(image_masks),
        tokens=torch.randint(0, config.vocab_size, (count, config.max_token_len), generator=generator),
        token_masks=slots[None] < torch.tensor(lengths)[:, None],
        state=torch.randn(count, config.action_dim, generator=generator),
        noise=torch.randn(count, config.action_horizon, config.action_dim, generator=generator),
    )
