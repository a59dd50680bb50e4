"""LeRobot data sets: the right frame of the right episode, and every misfit named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot_folder import FPS, TASKS, brightness, save, write_lerobot
from small import small_policy

from vlapack.errors import InputError
from vlapack.observations import folder as observations
from vlapack.observations.frame import ObservationSource
from vlapack.observations.lerobot_dataset import LerobotDataset
from vlapack.observations.parquet import read_rows
from vlapack.observations.video import frames_at

LENGTHS = (7, 4, 9, 5)
LIBERO = small_policy()


def open_source(folder: Path) -> ObservationSource:
    return observations.open_source(folder, LIBERO)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of videos; do not write into it."""
    return write_lerobot(tmp_path_factory.mktemp("lerobot"), LENGTHS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_lerobot(tmp_path, LENGTHS)


OPENPI = {"cameras": ("image", "wrist_image"), "vectors": {"state": 8}, "dtype": "image"}


@pytest.mark.parametrize("form", [{}, {"dtype": "image"}, OPENPI], ids=["video", "image", "openpi's names"])
def test_every_frame_has_its_own_pictures_state_and_task(form: dict[str, Any], tmp_path: Path) -> None:
    source = open_source(write_lerobot(tmp_path, LENGTHS, **form))
    frames = source.take(sum(LENGTHS))
    assert len(frames) == len(source) == 25
    for index, frame in enumerate(frames):
        observation, episode = frame.observation, frame.source["episode_index"]
        assert observation["observation/state"].tolist() == [index, *[0] * 7]
        assert observation["prompt"] == TASKS[episode % 2]
        for number, key in enumerate(("observation/image", "observation/wrist_image")):
            picture = observation[key]
            assert picture.shape == (64, 64, 3)
            assert picture.dtype == np.uint8
            assert abs(picture.mean() - brightness(index, number)) < 10, f"{frame.name}, {key}"
    assert frames[7].name == "episode 1 frame 0"


def test_fewer_frames_come_from_every_episode_and_are_always_the_same(whole: Path) -> None:
    frames = open_source(whole).take(8)
    assert [frame.source["episode_index"] for frame in frames] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [frame.name for frame in open_source(whole).take(8)] == [frame.name for frame in frames]
    for frame in frames:
        start = sum(LENGTHS[: frame.source["episode_index"]])
        assert frame.observation["observation/state"][0] == start + frame.source["frame_index"]


def test_a_video_is_read_in_any_order(whole: Path) -> None:
    path = whole / "videos/observation.images.image/chunk-000/file-000.mp4"
    order = [19, 0, 11, 11, 5]
    for index, picture in zip(order, frames_at(path, [index / FPS for index in order], 0.5 / FPS), strict=True):
        assert abs(picture.mean() - brightness(index, 0)) < 10
    with pytest.raises(InputError, match=r"no frame within 0.0500 s of 3.0000 s \(the nearest is 1.1"):
        frames_at(path, [3.0], 0.5 / FPS)


def test_it_says_what_was_found(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(observations.load_observations(whole, 3, config=LIBERO)) == 3
    said = capsys.readouterr().err
    assert "LeRobotDataset v3.0, 25 frames in 4 episodes" in said
    assert "observation.images.image2" in said
    with pytest.raises(InputError, match=r"holds 25 observations, fewer than `count=26`"):
        observations.load_observations(whole, 26, config=LIBERO)


def test_older_task_tables_have_no_name_for_the_text(folder: Path) -> None:
    rows = [{"task_index": number, "__index_level_0__": text} for number, text in enumerate(TASKS)]
    save(folder / "meta/tasks.parquet", rows)
    assert {frame.observation["prompt"] for frame in LerobotDataset.open(folder, LIBERO, {}).take(4)} == set(TASKS)


def change_info(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    info = json.loads((folder / "meta/info.json").read_text())
    change(info)
    (folder / "meta/info.json").write_text(json.dumps(info))


MISFITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version 2.1": (lambda info: info.update(codebase_version="v2.1"), "convert_dataset_v21_to_v30"),
    "no fps": (lambda info: info.pop("fps"), "has no fps"),
    "another robot's cameras": (
        lambda info: info["features"].update(
            {"observation.images.top": info["features"].pop("observation.images.image")}
        ),
        r"reads image: observation.images.image or image. Found: .*top video.*"
        r"`rename_map='{\"observation.images.top\": \"image\"}'`",
    ),
    "another robot's state": (
        lambda info: info["features"]["observation.state"].update(shape=[14]),
        r"observation.state of shape \[8\], not \[14\]",
    ),
    "a camera of numbers": (
        lambda info: info["features"]["observation.images.image"].update(dtype="float32"),
        "of type video or image, not float32",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_named(misfit: str, folder: Path) -> None:
    change, message = MISFITS[misfit]
    change_info(folder, change)
    with pytest.raises(InputError, match=message):
        open_source(folder)


def test_cameras_are_renamed_as_the_policy_was_trained(tmp_path: Path) -> None:
    top = "observation.images.top"
    folder = write_lerobot(tmp_path / "renamed", cameras=(top, "observation.images.image2"))
    source = LerobotDataset.open(folder, replace(LIBERO, rename_map={top: "observation.images.image"}), {})
    assert {field.name: feature for field, feature in source.features.items()}["image"] == top
    assert len(source.take(2)) == 2
    with pytest.raises(InputError, match="reads image"):
        LerobotDataset.open(folder, LIBERO, {})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


BREAKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no video": ("videos/observation.images.image2/chunk-000/file-001.mp4", Path.unlink),
    "a cut video": ("videos/observation.images.image2/chunk-000/file-001.mp4", cut),
    "no data": ("data/chunk-000/file-001.parquet", Path.unlink),
    "cut data": ("data/chunk-000/file-001.parquet", cut),
    "no tasks": ("meta/tasks.parquet", Path.unlink),
    "cut episodes": ("meta/episodes/chunk-000/file-000.parquet", cut),
}


@pytest.mark.parametrize("what", BREAKS)
def test_broken_files_are_named(what: str, folder: Path) -> None:
    file, damage = BREAKS[what]
    damage(folder / file)
    with pytest.raises(InputError, match=Path(file).name):
        open_source(folder).take(4)


def test_a_video_of_another_data_set_is_noticed(folder: Path) -> None:
    videos = folder / "videos/observation.images.image/chunk-000"
    (videos / "file-001.mp4").replace(videos / "file-000.mp4")
    with pytest.raises(InputError, match=r"file-000.mp4: no frame within"):
        open_source(folder).take(4)


@pytest.mark.parametrize("module", ["av", "pyarrow.parquet"])
def test_a_missing_extra_is_named(module: str, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install '\.\[lerobot\]'"):
        open_source(whole).take(1)


def test_a_path_that_is_too_long_names_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there"):
        frames_at(tmp_path / f"{'v' * 300}.mp4", [0.0], 0.1)
    with pytest.raises(InputError, match="not there"):
        read_rows(tmp_path / f"{'d' * 300}.parquet")
