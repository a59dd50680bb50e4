"""Recorded observations: read as they were written, and every damage named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlapack.errors import InputError
from vlapack.observations.folder import load_observations
from vlapack.robots.layouts import LAYOUTS


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
        robot = LAYOUTS["libero"].inputs(observation)
        assert robot.state.dtype == np.float64
    assert (observations[0]["observation/image"] != observations[1]["observation/image"]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "other"}, "type is 'other'"),
        ({"version": 2}, "version is 2"),
        ({"turned": 90}, "index.json has turned; this version knows type, version, layout"),
        ({"layout": "mars"}, "layout 'mars'; expected is 'libero' or 'droid' or"),
        ({"observations": []}, "no observations"),
        ({"observations": ["000_base.png"]}, "observation 0 is '000_base.png'"),
        (
            {"observations": [{"image": "000_base.png"}]},
            "observation 0 has no wrist_image, state, prompt; record it again",
        ),
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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("state", [0.0] * 7, r"observation 1: observation/state: shape \(7,\)"),
        ("state", [0.0] * 7 + [float("nan")], "observation 1: observation/state: .* is not finite"),
        ("state", [[1.0], [1.0, 2.0]], "observation 1: "),
        ("prompt", " ", "observation 1: prompt: empty"),
        ("image", "../000_base.png", "observation 1 names the picture '../000_base.png'; it must be the name"),
        ("image", None, "observation 1 names the picture None"),
        ("source", [1], r"observation 1 has the source \[1\]"),
    ],
)
def test_an_observation_that_no_policy_could_use_is_named(folder: Path, key: str, value: Any, message: str) -> None:
    entries = json.loads((folder / "index.json").read_text())["observations"]
    entries[1][key] = value
    change_index(folder, observations=entries)
    with pytest.raises(InputError, match=f"index.json: {message}"):
        load_observations(folder)


def test_a_part_is_taken_evenly_and_too_few_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_observations(folder)
    np.testing.assert_equal(load_observations(folder, 2), whole[::2])
    assert "recorded observations, 4; 2 taken" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"holds 4 observations, fewer than `count=5`: .* give `count=4`"):
        load_observations(folder, 5)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no index.json .* and no meta/info.json .* give the folder that holds one"):
        load_observations(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        load_observations(tmp_path / "nowhere")


def test_openpis_pickled_recording_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "step_0.npy").touch()
    with pytest.raises(InputError, match=r"step_0.npy: .* pickle.*--record-dir"):
        load_observations(tmp_path)
