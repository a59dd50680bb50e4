"""What both sides of a comparison are shown: one observation, drawn so that a difference shows, and the noise."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlapack.policy.policy import Policy
from vlapack.robots.images import CHANNELS
from vlapack.robots.keys import PROMPT
from vlapack.robots.layouts import layout_of

SEED = 0
CAMERA_SIZE = (480 / 224, 640 / 224)
"""Height and width of the pictures that have to be resized, as multiples of the network's size: 480 x 640 for 224."""
STATE_BINS = 128


@dataclass(frozen=True, eq=False)
class Request:
    """One question to two runtimes.

    Attributes:
        observation: its pictures have the network's size, so that nothing after them depends on how they are resized.
        resized: the same with pictures that do not.
        noise: [horizon, action_dim].
        arrays: the numbers of all of these, for a file.
        document: how to put them together under openpi's keys or under LeRobot's.
    """

    observation: dict[str, Any]
    resized: dict[str, Any]
    noise: Tensor
    arrays: dict[str, np.ndarray]
    document: dict[str, Any]

    def save(self, path: Path, checkpoint: Path) -> None:
        """Write the `.npz` that `reference.py` reads."""
        document = json.dumps({**self.document, "checkpoint": str(checkpoint.absolute())})
        content: dict[str, Any] = {"request": np.array(document), **self.arrays}
        np.savez(path, **content)


def make_request(policy: Policy) -> Request:
    """Draw a request for a policy: smooth pictures, and a state from the middle of its statistics.

    Smooth, because two bilinear filters agree on them while another geometry, order of colors or scale shows; in the
    middle of the statistics and of a bin, because beyond them every state has the same tokens.
    """
    config, layout = policy.config, layout_of(policy.config)
    draw = np.random.default_rng(SEED)
    example = policy.example()
    size = config.architecture.vision.image_size
    normalized = (draw.integers(-STATE_BINS * 3 // 4, STATE_BINS * 3 // 4, config.features.state) + 0.5) / STATE_BINS
    state = policy.normalization.unnormalize("state", _widened(normalized, policy))[: config.features.state]
    observation, resized = copy.deepcopy(example), copy.deepcopy(example)
    for each in (observation, resized):
        each.pop("task", None)
        each["prompt"] = PROMPT
    arrays: dict[str, np.ndarray] = {}
    places, first = [], 0
    for number, field in enumerate(layout.fields):
        places.append({"path": list(field.path), "picture": field.width is None})
        if field.width is None:
            channels_first = field.get(example).shape[0] == CHANNELS
            height, width = (int(size * factor) for factor in CAMERA_SIZE)
            small, large = waves(size, size, number), waves(height, width, number)
            pictures = [p.transpose(2, 0, 1) if channels_first else p for p in (small, large)]
            arrays[f"picture.{number}"], arrays[f"resized.{number}"] = pictures
            field.put(observation, pictures[0])
            field.put(resized, pictures[1])
        else:
            vector = state[first : first + field.width]
            first += field.width
            arrays[f"vector.{number}"] = vector
            for each in (observation, resized):
                field.put(each, vector)
    noise = torch.randn(policy.noise_shape, generator=torch.Generator().manual_seed(SEED))
    arrays["noise"] = noise.numpy()
    document = {
        "config": config.name,
        "fields": places,
        "cameras": list(config.features.cameras),
        "prompt": PROMPT,
    }
    return Request(observation, resized, noise, arrays, document)


def waves(height: int, width: int, seed: int) -> np.ndarray:
    """Return a smooth picture, uint8 [height, width, 3], whose channels, corners and edges all differ."""
    draw = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    across, down, shift = draw.uniform(0.25, 1.0, (3, CHANNELS))
    bright = 0.5 + 0.45 * np.sin(2 * np.pi * (across * x + down * y + shift))
    return np.asarray((255 * bright).astype(np.uint8))


def _widened(normalized: np.ndarray, policy: Policy) -> np.ndarray:
    """Pad a state to the length of its statistics, which may have padding of their own."""
    return np.pad(normalized, (0, max(0, policy.config.architecture.action_dim - len(normalized))))
