"""Recording: what comes back is what was seen, and a server that runs for days fills no disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlapack.errors import InputError
from vlapack.observations.folder import load_observations
from vlapack.observations.recorder import Recorder
from vlapack.robots.layouts import LAYOUTS


def libero(folder: Path, limit: int | None = None) -> Recorder:
    return Recorder(folder, "libero", LAYOUTS["libero"].fields, limit=limit)


def observation(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        "observation/image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        "observation/state": np.full(8, float(number)),
        "prompt": f"do thing {number}",
    }


def recorded(folder: Path) -> list[int]:
    return [int(found["observation/state"][0]) for found in load_observations(folder)]


def test_observations_survive_the_folder(tmp_path: Path) -> None:
    recorder = libero(tmp_path / "obs")
    recorder.add(observation(0), suite="libero_spatial", init_state=20)
    recorder = libero(tmp_path / "obs")  # a second sitting
    recorder.add(observation(1), suite="libero_spatial", init_state=21)
    for number, back in enumerate(load_observations(tmp_path / "obs")):
        np.testing.assert_equal(back, observation(number))


def test_a_full_folder_drops_its_oldest(tmp_path: Path) -> None:
    folder = tmp_path / "obs"
    recorder = libero(folder, limit=4)
    for number in range(20):
        recorder.add(observation(number))
        assert recorded(folder) == list(range(max(0, number - 3), number + 1))
        assert len(list(folder.glob("*.png"))) == 2 * len(recorder) <= 8


def test_a_server_that_starts_again_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "obs"
    for start in (0, 3):
        recorder = libero(folder, limit=4)
        for number in range(start, start + 3):
            recorder.add(observation(number))
    assert recorded(folder) == [2, 3, 4, 5]
    libero(folder, limit=2).add(observation(6))  # a smaller limit than last time
    assert recorded(folder) == [5, 6]
    assert len(list(folder.glob("*.png"))) == 4


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        libero(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"type": "thesis"}))
    with pytest.raises(InputError, match="not an index of observations"):
        libero(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(InputError, match=r"index.json: not valid JSON"):
        libero(tmp_path)
    libero(tmp_path / "obs").add(observation(0))
    with pytest.raises(InputError, match="layout 'libero', and this policy's layout is 'droid'; give a new folder"):
        Recorder(tmp_path / "obs", "droid", LAYOUTS["droid"].fields)
    with pytest.raises(InputError, match="1 or more"):
        libero(tmp_path / "new", limit=0)
