"""Recorded observations: read as they were written, and every damage named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlapack.errors import InputError
from vlapack.policy.layouts import layout
from vlapack.policy.observations import load_observations


@pytest.fixture
def folder(observation_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(observation_folder, tmp_path / "observations"))


def change_index(folder: Path, **changes: Any) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | changes))


def test_every_observation_can_be_acted_on(folder: Path) -> None:
    observations = load_observations(folder)
    assert len(observations) == 4
    for observation in observations:
        robot = layout("libero").inputs(observation)
        assert robot.state.dtype == np.float64
    assert (observations[0]["observation/image"] != observations[1]["observation/image"]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "other"}, "type is 'other'"),
        ({"version": 2}, "version is 2"),
        ({"layout": "droid"}, "layout is 'droid'"),
        ({"observations": []}, "no observations"),
        ({"observations": [{"image": "000_base.png"}]}, "observation 0 has no wrist_image, state, prompt"),
    ],
)
def test_an_index_of_another_kind_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_index(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_observations(folder)


def test_missing_and_damaged_pictures_are_named(folder: Path) -> None:
    picture = folder / "002_wrist.png"
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(InputError, match=r"002_wrist.png: not a readable picture"):
        load_observations(folder)
    picture.unlink()
    with pytest.raises(InputError, match=r"002_wrist.png: the index names it"):
        load_observations(folder)


def test_a_folder_without_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no index.json"):
        load_observations(tmp_path)
