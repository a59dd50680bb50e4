"""The target `tiny-libero`: how far action chunks move when version 1 of that policy is quantized.

Each row is a real pack, made and opened as a user's would be, but that what several rows need is computed once: what
the layers see of a seed's observations, and what recipes prepare alike. Observations are one an episode, from initial
states 20-49, and dealt out: of nine, two calibrate, one is for choosing methods by, six are for the test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common.preparations import Preparations
from common.results import FIRST_POLICY

from vlapack import Policy, Recipe, make_pack, open_checkpoint
from vlapack.checkpoints.pack.contents import layers_of
from vlapack.errors import InputError
from vlapack.fingerprint import digest, digest_observations, digest_weights
from vlapack.observations.folder import open_source
from vlapack.packing.parent import Parent
from vlapack.packing.streaming import stream
from vlapack.plan.selected import Group
from vlapack.policy.inputs import Inputs
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import Block
from vlapack.recipe.presets import PRESETS

TASKS = "libero_spatial:0,libero_spatial:7,libero_spatial:8,libero_object:6"
RECORD = f"python scripts/record_observations.py --tasks {TASKS} --seed 1 --count 432 --out"
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
        self._checkpoint = open_checkpoint(FIRST_POLICY)
        policy = Policy.from_checkpoint(self._checkpoint)
        # What a network is given depends on no recipe, so it is made once.
        inputs = [policy.observe(observation) for observation in test]
        self._batches = [Inputs.stack(inputs[start : start + AT_ONCE]) for start in range(0, len(inputs), AT_ONCE)]
        noise = torch.randn((len(test), *policy.noise_shape), generator=torch.Generator().manual_seed(TEST_NOISE))
        self._noise = noise.split(AT_ONCE)
        self._expected = self._chunks(policy)
        self._parent = Parent(self._checkpoint)
        every = layers_of(self._parent.config.architecture, PRESETS["everything"])
        self._groups = [(layer,) for layer in every]  # the guide's recipe shares no input
        self._seen = lru_cache(maxsize=1)(self._calibrate)  # rows come seed by seed
        self._prepare = Preparations()
        self.identity = digest(
            {
                "weights": digest_weights(self._checkpoint.names(), self._checkpoint.read),
                "observations": digest_observations(self._calibration + test),
            }
        )

    def measure(self, recipe: Recipe, seed: int) -> dict[str, float]:
        """Return error and median of the pack that `recipe` makes; the seed chooses which observations calibrate."""
        with tempfile.TemporaryDirectory() as folder:
            found = self._chunks(Policy.from_pretrained(self.pack(replace(recipe, seed=seed), Path(folder) / "pack")))
        moved, size = (np.linalg.norm(chunks, axis=(1, 2)) for chunks in (found - self._expected, self._expected))
        return {"error": float(np.linalg.norm(moved) / np.linalg.norm(size)), "median": float(np.median(moved / size))}

    def pack(self, recipe: Recipe, folder: Path) -> Path:
        """Make a pack as `make_pack` does, with what is known already."""
        chosen = self.chosen(recipe.seed, recipe.calib_steps)
        with (
            patch("vlapack.packing.layers.stream", self._stream),
            patch("vlapack.quantize.groups.prepare", self._prepare),
        ):
            return make_pack(self._checkpoint, recipe, folder, chosen).pack

    def chosen(self, seed: int, count: int) -> list[dict[str, Any]]:
        """Return the observations that calibrate."""
        order = np.random.default_rng(seed).permutation(len(self._calibration))
        return [self._calibration[number] for number in order[:count]]

    def _stream(self, _parent: Parent, todo: Sequence[Group], recipe: Recipe, *_: Any, **__: Any) -> Iterator[Block]:
        """Stand for `streaming.stream`: what a layer sees depends on nothing of a recipe but the observations."""
        inputs = self._seen(recipe.seed, recipe.calib_steps)
        yield todo, {group[0].name: inputs[group[0].name] for group in todo if group[0].executed}

    def _calibrate(self, seed: int, steps: int) -> Mapping[str, LayerInputs]:
        recipe = replace(PRESETS["full"], seed=seed, calib_steps=steps)
        blocks = stream(self._parent, self._groups, recipe, self.chosen(seed, steps))
        return {name: inputs for _, of_block in blocks for name, inputs in of_block.items()}

    def _chunks(self, policy: Policy) -> np.ndarray:
        pairs = zip(self._batches, self._noise, strict=True)
        return np.concatenate([policy.act(inputs, noise) for inputs, noise in pairs])


def _part(frames: Sequence[dict[str, Any]], part: str) -> list[dict[str, Any]]:
    return [frame for number, frame in enumerate(frames) if number % OF in DEALT[part]]
