"""A random policy in openpi's folder format, smaller than any real one, and observations for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlapack.checkpoints.configs import POLICIES
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.checkpoints.write import write_folder
from vlapack.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from vlapack.pi0.names import openpi_tensors
from vlapack.recipe.presets import preset
from vlapack.robots.layouts import LAYOUTS, Layout

TOKENIZER = Path(__file__).parents[1] / "src/vlapack/assets/tiny-libero/tokenizer.model"

SMALL = Pi0Config(
    variant="pi05",
    vision=VisionConfig(width=48, depth=2, mlp_dim=80, num_heads=2, patch_size=14, image_size=28),
    llm=GemmaConfig(width=64, depth=2, mlp_dim=96, num_heads=8, num_kv_heads=1, head_dim=16),
    expert=GemmaConfig(width=32, depth=2, mlp_dim=64, num_heads=8, num_kv_heads=1, head_dim=16),
    vocab_size=512,
    action_dim=32,
    action_horizon=4,
    max_token_len=40,
    num_cameras=3,
)

MIXED = replace(preset("full-w4"), overrides=((r"self_attn\.[kv]_proj$", 8),))
"""Keys and values at 8 bits in every layer, as `full` has them in most of the language model's: deeper than `SMALL`."""


def small_policy(**changes: Any) -> PolicyConfig:
    """The configuration of the random policy: LIBERO's layout, π0.5, the state in the prompt."""
    small = replace(POLICIES["tiny_libero"], name="small", asset_id="small", architecture=SMALL)
    return replace(small, **changes)


def random_tensors(architecture: Pi0Config, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor of an openpi file, with some strong channels, scaled so that activations neither grow nor vanish."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (shape, dtype) in openpi_tensors(architecture).items():
        values = torch.randn(shape, generator=draw) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.02)
        if len(shape) == 2:
            values[:, ::7] *= 3
        tensors[name] = values.to(getattr(torch, dtype))
    return tensors


def write_random_checkpoint(folder: Path, config: PolicyConfig, seed: int = 0) -> Path:
    """Write an openpi folder with random weights and plausible statistics."""
    draw = np.random.default_rng(seed)

    def statistics(size: int) -> Statistics:
        low = draw.normal(-1, 0.2, size)
        return Statistics(mean=low + 1, std=np.full(size, 0.5), q01=low, q99=low + 2)

    normalization = Normalization(
        config.normalization,
        {"state": statistics(config.features.state), "actions": statistics(len(config.features.actions))},
    )
    weights = random_tensors(config.architecture, seed)
    write_folder(folder, config, weights, normalization=normalization, tokenizer=TOKENIZER)
    return folder


def random_observations(
    count: int, seed: int = 0, layout: Layout = LAYOUTS["libero"], *, without: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Observations in the layout's keys, but for the parts that are left out by name."""
    draw = np.random.default_rng(seed)
    observations = []
    for _ in range(count):
        observation: dict[str, Any] = {}
        for part in layout.fields:
            picture = part.width is None
            value = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) if picture else draw.normal(0, 0.3, part.width)
            if part.name not in without:
                part.put(observation, value)
        observations.append({**observation, "prompt": "pick up the black bowl and place it on the plate"})
    return observations


def write_observations(folder: Path, observations: list[dict[str, Any]]) -> Path:
    """Write observations as `policy/observations.py` reads them."""
    entries = []
    for number, observation in enumerate(observations):
        names = {"image": f"{number:03d}_base.png", "wrist_image": f"{number:03d}_wrist.png"}
        for key, name in names.items():
            Image.fromarray(observation[f"observation/{key}"]).save(folder / name)
        state = observation["observation/state"].tolist()
        entries.append({**names, "state": state, "prompt": observation["prompt"]})
    index = {"type": "vlapack.observations", "version": 1, "layout": "libero", "observations": entries}
    (folder / "index.json").write_text(json.dumps(index))
    return folder
