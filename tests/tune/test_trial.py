"""A trial's yardstick: other noises for the first observations only, whoever drew more before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small import random_observations

from vlapack.checkpoints import open_checkpoint
from vlapack.packing.parent import Parent
from vlapack.tune.folder import TuningFolder
from vlapack.tune.trial import SPREAD_FRAMES, Trial

COUNT = SPREAD_FRAMES + 2


@pytest.fixture
def parent(random_checkpoint: Path) -> Parent:
    return Parent(open_checkpoint(random_checkpoint))


def found(parent: Parent, folder: Path, monkeypatch: pytest.MonkeyPatch, frames: int) -> tuple[np.ndarray, np.ndarray]:
    monkeypatch.setattr("vlapack.tune.trial.SPREAD_FRAMES", frames)
    with TuningFolder(folder, {}) as work:
        trial = Trial(parent, {}, random_observations(COUNT), work, seed=0)
        return trial.spread(range(COUNT)), trial.deviations_of(trial.policy, range(COUNT))


def test_the_spread_is_that_of_the_first_observations(
    parent: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, _ = found(parent, tmp_path / "every", monkeypatch, COUNT)
    first, same = found(parent, tmp_path / "first", monkeypatch, SPREAD_FRAMES)
    assert first.shape == (SPREAD_FRAMES, 7)
    np.testing.assert_allclose(first, every[:SPREAD_FRAMES], rtol=0.2)  # but for the scale, from fewer chunks
    assert same.shape == (COUNT,)
    assert same.max() < 1e-3  # a policy from the first noise, against itself
    chunks = [tmp_path / "first" / "floats" / f"{number:04d}.safetensors" for number in range(COUNT)]
    assert chunks[-1].stat().st_size < chunks[0].stat().st_size / 2


def test_work_begun_with_more_noises_is_read_as_if_it_had_none(
    parent: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(parent, tmp_path / "old", monkeypatch, COUNT)
    resumed, _ = found(parent, tmp_path / "old", monkeypatch, SPREAD_FRAMES)
    new, _ = found(parent, tmp_path / "new", monkeypatch, SPREAD_FRAMES)
    np.testing.assert_allclose(resumed, new, rtol=1e-4)
