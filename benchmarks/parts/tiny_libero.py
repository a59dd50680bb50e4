"""The target `tiny-libero`: how far action chunks move when the shipped policy is quantized.

Each row is a real pack, made and opened as a user's would be. Observations are one an episode, from initial states
20-49, and dealt out: of nine, two calibrate, one is for choosing methods by, six are for the test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlapack.checkpoints import open_checkpoint
from vlapack.errors import InputError
from vlapack.fingerprint import digest, digest_observations, digest_weights
from vlapack.packing import make_pack
from vlapack.policy.inputs import Inputs
from vlapack.policy.observations import open_source
from vlapack.policy.policy import Policy
from vlapack.recipe.recipe import Recipe

PARENT = "tiny-libero"
RECORD = "python scripts/record_observations.py --seed 1 --count 432 --out"
DEALT = {"calibration": (0, 1), "choice": (2,), "test": (3, 4, 5, 6, 7, 8)}
OF = 9
AT_ONCE = 32
"""Observations in one pass."""
TEST_NOISE = 77


class TinyLibero:
    """Relative error √(Σ‖Δ‖² / Σ‖a‖²) of the chunks a [horizon, 7] that the robot gets, with the same noise.

    Where the policy hesitates to close its gripper a small change flips it, and a few such observations outweigh all
    others. So `median` goes beside it: of ‖Δ‖ / ‖a‖ over the observations.

    Args:
        folder: recorded observations.
        part: what the error is measured on: `test`, or `choice` while methods are being chosen.
        limit: at most so many of them; None: all.
    """

    name = "tiny-libero"
    preset = "full"

    def __init__(self, folder: Path, part: str = "test", limit: int | None = None) -> None:
        if not (folder / "index.json").is_file():
            raise InputError(f"no observations in {folder}; record them (20 minutes): {RECORD} {folder}")
        source = open_source(folder)
        frames = [frame.observation for frame in source.take(len(source))]
        self._calibration = _part(frames, "calibration")
        test = _part(frames, part)[:limit]
        self._checkpoint = open_checkpoint(PARENT)
        policy = Policy.from_checkpoint(self._checkpoint)
        # What a network is given depends on no recipe, so it is made once.
        inputs = [policy.observe(observation) for observation in test]
        self._batches = [Inputs.stack(inputs[start : start + AT_ONCE]) for start in range(0, len(inputs), AT_ONCE)]
        noise = torch.randn((len(test), *policy.noise_shape), generator=torch.Generator().manual_seed(TEST_NOISE))
        self._noise = noise.split(AT_ONCE)
        self._expected = self._chunks(policy)
        self.identity = digest(
            {
                "weights": digest_weights(self._checkpoint.names(), self._checkpoint.read),
                "observations": digest_observations(self._calibration + test),
            }
        )

    def measure(self, recipe: Recipe, seed: int) -> dict[str, float]:
        """Return error and median of the pack that `recipe` makes; the seed chooses which observations calibrate."""
        order = np.random.default_rng(seed).permutation(len(self._calibration))
        chosen = [self._calibration[number] for number in order[: recipe.calib_steps]]
        with tempfile.TemporaryDirectory() as folder:
            report = make_pack(self._checkpoint, replace(recipe, seed=seed), Path(folder) / "pack", chosen)
            found = self._chunks(Policy.from_pretrained(report.pack))
        moved, size = (np.linalg.norm(chunks, axis=(1, 2)) for chunks in (found - self._expected, self._expected))
        return {"error": float(np.linalg.norm(moved) / np.linalg.norm(size)), "median": float(np.median(moved / size))}

    def _chunks(self, policy: Policy) -> np.ndarray:
        pairs = zip(self._batches, self._noise, strict=True)
        return np.concatenate([policy.act(inputs, noise) for inputs, noise in pairs])


def _part(frames: Sequence[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    return [frame for number, frame in enumerate(frames) if number % OF in DEALT[part]]
