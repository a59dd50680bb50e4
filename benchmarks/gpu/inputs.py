"""What is measured: the networks, and what a robot of theirs shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from gate.floors import PROMPT
from torch import Tensor

from vlapack.pi0.config import CONFIGS, GemmaConfig, Pi0Config, VisionConfig
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

DRY = Pi0Config(
    variant="pi05",
    vision=VisionConfig(width=32, depth=1, mlp_dim=48, num_heads=2, patch_size=14, image_size=28),
    llm=GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=2, num_kv_heads=1, head_dim=16),
    expert=GemmaConfig(width=32, depth=2, mlp_dim=48, num_heads=2, num_kv_heads=1, head_dim=16),
    vocab_size=64,
    action_dim=32,
    action_horizon=10,
    max_token_len=48,
    num_cameras=3,
)
"""The network of a dry run."""


class NotMeasuredError(Exception):
    """A cell cannot be measured here, and why."""


@dataclass(frozen=True)
class Chunk:
    """One kind of chunk.

    Attributes:
        variant: `pi05` or `pi0`.
        contender: who computes it: `bf16`, a preset, `full at 8 bits`, or `openpi`.
        cameras: that there are; the network has places for three.
        horizon: actions of a chunk.
    """

    variant: str
    contender: str
    cameras: int = 2
    horizon: int = 10

    @property
    def name(self) -> str:
        """What results call it."""
        plural = "" if self.cameras == 1 else "s"
        return f"{self.variant}, {self.cameras} camera{plural}, horizon {self.horizon}: {self.contender}"

    @property
    def recipe(self) -> Recipe | None:
        """How it is packed; None: not at all."""
        if self.contender in ("bf16", "openpi"):
            return None
        return replace(preset("full"), weight_bits=8) if self.contender == "full at 8 bits" else preset(self.contender)

    def architecture(self, *, dry: bool) -> Pi0Config:
        """Return the network's sizes."""
        if dry:
            return replace(DRY, variant=self.variant, action_horizon=self.horizon)
        return replace(CONFIGS[self.variant], action_horizon=self.horizon)


SHORT = tuple(Chunk("pi05", contender) for contender in ("bf16", "full", "full at 8 bits", "openpi"))
"""What is always measured."""
GRID = tuple(
    Chunk(variant, contender, cameras, horizon)
    for variant in ("pi05", "pi0")
    for horizon in (10, 50)
    for cameras in (2, 1, 3)
    for contender in ("bf16", "full", "full at 8 bits", "llm", "quantvla", "everything", "openpi")
)
"""What `--all` measures."""


def chunk_inputs(config: Pi0Config, *, cameras: int, prompt: int = PROMPT, seed: int = 0) -> tuple[Tensor, ...]:
    """Return one observation as the network takes it, on the CPU: pictures of uint8, masks, tokens, state, noise."""
    draw = torch.Generator().manual_seed(seed)
    size, length = config.vision.image_size, config.max_token_len
    images = torch.randint(0, 256, (1, config.num_cameras, 3, size, size), dtype=torch.uint8, generator=draw)
    exists = torch.arange(config.num_cameras)[None] < cameras
    tokens = torch.randint(1, config.vocab_size, (1, length), generator=draw)
    return (
        images * exists[:, :, None, None, None],
        exists,
        tokens,
        torch.arange(length)[None] < prompt,
        torch.randn(1, config.action_dim, generator=draw),
        torch.randn(1, config.action_horizon, config.action_dim, generator=draw),
    )
