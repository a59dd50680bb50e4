"""What `tiny-libero` learns from: what is rendered, which steps a chunk teaches, and where training starts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))  # the scripts import each other by name

import demonstrations  # noqa: E402
import tiny_learner  # noqa: E402

from vlapack.checkpoints.configs import POLICIES  # noqa: E402
from vlapack.pi0.flow import Pi0  # noqa: E402


def test_a_picture_moves_by_itself_and_repeats_its_edge() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 7, 7, 3), dtype=np.uint8)
    moves = np.array([[0, 0], [2, -1], [-3, 4]])
    found = demonstrations.shifted(pictures, moves)
    for picture, (down, right), got in zip(pictures, moves, found, strict=True):
        for row in range(7):
            for column in range(7):
                source = picture[min(max(row - down, 0), 6), min(max(column - right, 0), 6)]
                np.testing.assert_array_equal(got[row, column], source)


def test_a_resampled_patch_kernel_sees_a_larger_picture_as_before() -> None:
    first = ROOT / "tests/data/tiny-libero-1"
    architecture = POLICIES["tiny_libero"].architecture
    weights = tiny_learner.initial_weights(first, Pi0(architecture))
    stored = tiny_learner.load_file(first / "model.safetensors")[tiny_learner.PATCHES].float()
    assert weights[tiny_learner.PATCHES].shape[-1] == architecture.vision.patch_size != stored.shape[-1]
    size = architecture.vision.patch_size
    small = torch.rand(1, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, (size, size), mode="nearest")
    shrunk = torch.nn.functional.interpolate(large, (14, 14), mode="bilinear", antialias=True)
    seen = torch.nn.functional.conv2d(large, weights[tiny_learner.PATCHES])
    torch.testing.assert_close(seen, torch.nn.functional.conv2d(shrunk, stored), rtol=1e-3, atol=1e-3)


def test_a_chunk_is_valid_up_to_the_next_push() -> None:
    collect = pytest.importorskip("collect_demos")
    pushes = np.zeros((8, 7))
    pushes[3:5, 0] = 1.0
    # The action at a pushed step is the expert's answer to what it saw; the one after answers to the push.
    assert collect.until_push(pushes).tolist() == [4, 3, 2, 1, 1, 11, 10, 9]
