"""Recorded observations on which policies are compared with their float parent, as `vlapack compare` does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlapack import Policy
from vlapack.evaluate.compare import action_differences, cosines, draws
from vlapack.observations.folder import open_source
from vlapack.policy.inputs import Inputs
from vlapack.progress import progress
from vlapack.robots.layouts import layout_of

AT_ONCE = 32
NOISES = 2
"""Of the float policy per observation; `compare` takes eight, to know its spread, which nothing here asks for."""


class Comparison:
    """The float policy's chunks on some observations, and how far another policy's are from them.

    Args:
        name: of the observations, for the progress bar.
        parent: the float policy.
        observations: in the keys of the robot's layout.
    """

    def __init__(self, name: str, parent: Policy, observations: Sequence[Mapping[str, Any]]) -> None:
        inputs = [parent.observe(observation) for observation in observations]
        self._batches = [Inputs.stack(inputs[start : start + AT_ONCE]) for start in range(0, len(inputs), AT_ONCE)]
        noises = torch.stack([noise for noise, _ in zip(draws(0, parent.noise_shape), inputs, strict=False)])
        with progress(f"{name}: float", len(self._batches) * NOISES) as advance:
            chunks = [self._chunks(parent, noises[:, number], advance) for number in range(NOISES)]
        self._expected, self._noise = np.stack(chunks, axis=1), noises[:, 0]
        self._layout = layout_of(parent.config)

    def __len__(self) -> int:
        """Return the number of observations."""
        return len(self._expected)

    def differences(self, policy: Policy) -> dict[str, float]:
        """Return median and 95 % point of the deviation, the gripper's flips, and the cosine of the chunks."""
        found = self._chunks(policy, self._noise, lambda: None)
        document = action_differences(self._expected, found, [""] * len(found), self._layout)
        gripper = document["gripper"] or {"flips": 0, "actions": 0}
        cosine = cosines(self._expected[:, 0], found)
        return {
            "error": document["deviation"]["p95"],
            "median": document["deviation"]["p50"],
            "flips": gripper["flips"],
            "actions": gripper["actions"],
            "cosine_mean": float(cosine.mean()),
            "cosine_min": float(cosine.min()),
        }

    def _chunks(self, policy: Policy, noises: Tensor, advance: Callable[[], object]) -> np.ndarray:
        """Return the actions [N, horizon, A] from one noise each."""
        found = []
        for inputs, noise in zip(self._batches, noises.split(AT_ONCE), strict=True):
            found.append(policy.act(inputs, noise))
            advance()
        return np.concatenate(found)


def frames(folder: Path) -> list[dict[str, Any]]:
    """Read all observations of a folder."""
    source = open_source(folder)
    return [frame.observation for frame in source.take(len(source))]
