"""A recorded observation comes back as it was."""

import numpy as np
import pytest

from vlapack.errors import InputError
from vlapack.libero.recording import Recorder
from vlapack.policy.observations import load_observations


def observation(seed: int):
    rng = np.random.default_rng(seed)
    return {
        "observation/image": rng.integers(0, 256, (256, 256, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (256, 256, 3), dtype=np.uint8),
        "observation/state": rng.normal(size=8),
        "prompt": f"do thing {seed}",
    }


def test_observations_survive_the_folder(tmp_path):
    recorder = Recorder(tmp_path / "obs")
    recorder.add(observation(0), suite="libero_spatial", init_state=20)
    recorder = Recorder(tmp_path / "obs")  # a second sitting
    recorder.add(observation(1), suite="libero_spatial", init_state=21)
    for seed, back in enumerate(load_observations(tmp_path / "obs")):
        for key, value in observation(seed).items():
            np.testing.assert_array_equal(back[key], value)


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        Recorder(tmp_path)
