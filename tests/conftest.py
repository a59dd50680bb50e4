"""What several tests share; the functions behind it are in small.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from extras import needs
from small import random_observations, small_policy, write_observations, write_random_checkpoint

torch.set_num_threads(1)  # tiny products: more threads only wait for each other


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The marker `simulator` is all that such a test has to say."""
    if item.get_closest_marker("simulator") is not None:
        needs("libero", "mujoco", remedy="pip install '.[libero]' on Python < 3.12")


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A π0.5 policy folder with random weights (under 1 MB); do not write into it."""
    return write_random_checkpoint(tmp_path_factory.mktemp("random") / "checkpoint", small_policy())


@pytest.fixture(scope="session")
def observation_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recorded observations; do not write into it."""
    return write_observations(tmp_path_factory.mktemp("observations"), random_observations(4))
