"""Damaged or foreign LeRobot data sets: no frame of another episode, no null, no field that is skipped in silence."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lerobot_folder import brightness, png, save, write_lerobot
from PIL import Image
from small import small_policy

from vlapack.errors import InputError
from vlapack.observations.folder import open_source
from vlapack.observations.frame import Frame
from vlapack.observations.lerobot_info import (
    EPISODE_HARMLESS,
    FEATURE_HARMLESS,
    INFO_HARMLESS,
    ROW_HARMLESS,
    VIDEO_HARMLESS,
)

LIBERO = small_policy()
EPISODES, DATA, TASKS = "meta/episodes/*/*.parquet", "data/*/*.parquet", "meta/tasks.parquet"
CAMERA = "observation.images.image"
Row = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_lerobot(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_lerobot(tmp_path, dtype="image")


def edit(folder: Path, pattern: str, change: Callable[[Row], object]) -> None:
    for path in folder.glob(pattern):
        rows = pyarrow.parquet.read_table(path).to_pylist()
        for row in rows:
            change(row)
        save(path, rows)


def rewrite(folder: Path, pattern: str, change: Callable[[list[Row]], list[Row]]) -> None:
    path = sorted(folder.glob(pattern))[0]
    save(path, change(pyarrow.parquet.read_table(path).to_pylist()))


def change_info(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def take(folder: Path, count: int = 25, **renaming: None) -> list[Frame]:
    return open_source(folder, LIBERO, rename_map=json.dumps(renaming) if renaming else None).take(count)


def test_rows_are_their_episodes_even_where_index_restarts(folder: Path) -> None:
    edit(folder, DATA, lambda row: row.update(index=row["frame_index"]))
    edit(folder, EPISODES, lambda row: row.update(dataset_from_index=0, dataset_to_index=row["length"]))
    for position, frame in enumerate(take(folder)):
        assert frame.observation["observation/state"][0] == position
        assert abs(frame.observation["observation/image"].mean() - brightness(position, 0)) < 10


def test_rows_in_any_order_are_found(folder: Path) -> None:
    for path in folder.glob(DATA):
        save(path, pyarrow.parquet.read_table(path).to_pylist()[::-1])
    states = [frame.observation["observation/state"][0] for frame in take(folder)]
    assert states == list(range(25))


BROKEN_ROWS: dict[str, tuple[str, Callable[[list[Row]], list[Row]], str]] = {
    "a doubled row": (DATA, lambda rows: [*rows, rows[3]], r"row 20: episode 0 frame 3 is in row 3 too"),
    "a gap": (DATA, lambda rows: rows[:3] + rows[4:], r"file-000.parquet: has no row for episode 0 frame 3"),
    "a frame too many": (
        DATA,
        lambda rows: [*rows, rows[6] | {"frame_index": 7}],
        r"row 20: episode 0 frame 7 is outside the 7 frames",
    ),
    "another data set's rows": (
        DATA,
        lambda rows: [row | {"index": row["index"] + 100} for row in rows],
        r"row 0: episode 0 frame 0 has index 100; by meta/episodes it is 0",
    ),
    "no episode": (DATA, lambda rows: [row | {"episode_index": None} for row in rows], r"row 0: episode_index is null"),
    "no frame": (DATA, lambda rows: [rows[0] | {"frame_index": None}, *rows[1:]], r"row 0: frame_index is null"),
    "frames of floats": (
        DATA,
        lambda rows: [row | {"frame_index": float(row["frame_index"])} for row in rows],
        r"frame_index is of type double; it must be an integer",
    ),
    "no such column": (
        DATA,
        lambda rows: [{key: row[key] for key in row if key != "frame_index"} for row in rows],
        r"not a parquet table with frame_index",
    ),
    "a null timestamp": (
        DATA,
        lambda rows: [*rows[:5], rows[5] | {"timestamp": None}, *rows[6:]],
        r"file-000.parquet: row 5 \(episode 0 frame 5\): timestamp is null",
    ),
    "a timestamp that is no number": (
        DATA,
        lambda rows: [*rows[:5], rows[5] | {"timestamp": float("nan")}, *rows[6:]],
        r"row 5 \(episode 0 frame 5\): timestamp is nan",
    ),
    "a timestamp before the episode": (
        DATA,
        lambda rows: [*rows[:8], rows[8] | {"timestamp": -0.1}, *rows[9:]],
        r"row 8 \(episode 1 frame 1\): timestamp is -0.1",
    ),
    "a timestamp of the next episode": (
        DATA,
        lambda rows: [*rows[:6], rows[6] | {"timestamp": 0.7}, *rows[7:]],
        r"row 6 \(episode 0 frame 6\): timestamp 0.7 is beyond the episode's part",
    ),
    "a null task": (
        DATA,
        lambda rows: [*rows[:5], rows[5] | {"task_index": None}, *rows[6:]],
        r"row 5 \(episode 0 frame 5\): task_index is null",
    ),
    "a null feature": (
        DATA,
        lambda rows: [*rows[:5], rows[5] | {"observation.state": None}, *rows[6:]],
        r"row 5 \(episode 0 frame 5\): observation.state is null",
    ),
    "a null in a feature": (
        DATA,
        lambda rows: [*rows[:5], rows[5] | {"observation.state": [1.0, None, *[0.0] * 6]}, *rows[6:]],
        r"row 5 \(episode 0 frame 5\): observation.state is .*None.*; it must be numbers without null",
    ),
    "NaN in a feature": (
        DATA,
        lambda rows: [*rows[:5], rows[5] | {"observation.state": [float("nan")] * 8}, *rows[6:]],
        r"row 5 \(episode 0 frame 5\): .*not finite",
    ),
    "a short feature": (
        DATA,
        lambda rows: [*rows[:5], rows[5] | {"observation.state": [0.0] * 7}, *rows[6:]],
        r"row 5 \(episode 0 frame 5\): .*shape \(7,\)",
    ),
    "a task without its text": (TASKS, lambda rows: [rows[0] | {"task": None}, rows[1]], r"row 0: the task is null"),
    "a task of numbers": (
        TASKS,
        lambda rows: [row | {"task": 3} for row in rows],
        r"tasks.parquet: row 0: the task is 3; a task is a text",
    ),
    "a doubled task": (TASKS, lambda rows: [*rows, rows[0]], r"row 2: task_index 0 appears twice"),
    "a task without its number": (TASKS, lambda rows: [rows[0] | {"task_index": None}, rows[1]], "task_index is null"),
    "a doubled episode": (EPISODES, lambda rows: [*rows, rows[1]], r"row 4: episode 1 appears twice"),
    "a missing episode": (EPISODES, lambda rows: [rows[0], *rows[2:]], r"has no episode 1, but 3"),
    "an episode of any number": (EPISODES, lambda rows: [rows[0] | {"episode_index": 2**62}], r"has no episode 0, but"),
    "an episode as long as time": (
        EPISODES,
        lambda rows: [rows[0] | {"length": 2**62, "dataset_to_index": 2**62}],
        r"total_episodes is 4, but",
    ),
    "no first row": (DATA, lambda rows: rows[1:], r"has no row for episode 0 frame 0"),
    "no last row": (DATA, lambda rows: rows[:6] + rows[7:], r"has no row for episode 0 frame 6"),
    "an incomplete download": (EPISODES, lambda rows: rows[:3], r"total_episodes is 4, but meta/episodes has 3"),
    "other lengths": (
        EPISODES,
        lambda rows: [row | {"length": row["length"] + 1} for row in rows],
        r"row 0: length is 8, but dataset_from_index and dataset_to_index are 0 and 7",
    ),
    "an episode without its file": (
        EPISODES,
        lambda rows: [row | {"data/file_index": None} for row in rows],
        r"row 0: data/file_index is null",
    ),
    "a video without its beginning": (
        EPISODES,
        lambda rows: [row | {f"videos/{CAMERA}/from_timestamp": None} for row in rows],
        r"row 0: videos/observation.images.image/from_timestamp is null",
    ),
    "a video that ends before it begins": (
        EPISODES,
        lambda rows: [row | {f"videos/{CAMERA}/to_timestamp": 0.0} for row in rows],
        r"row 0: videos/observation.images.image/to_timestamp is 0.0, and from_timestamp 0.0",
    ),
}


@pytest.mark.parametrize("what", BROKEN_ROWS)
def test_a_broken_table_is_named_with_its_row(what: str, folder: Path) -> None:
    pattern, change, message = BROKEN_ROWS[what]
    rewrite(folder, pattern, change)
    with pytest.raises(InputError, match=message):
        take(folder)


UNKNOWN: dict[str, Callable[[Path], object]] = {
    "info": lambda folder: change_info(folder, lambda info: info.update(discarded=[1])),
    "feature": lambda folder: change_info(
        folder, lambda info: info["features"]["observation.state"].update(discarded="degrees")
    ),
    "video": lambda folder: change_info(
        folder, lambda info: info["features"][CAMERA].update(info={"discarded": True, "video.fps": 10})
    ),
    "episodes": lambda folder: edit(folder, EPISODES, lambda row: row.update(discarded=True)),
    "tasks": lambda folder: edit(folder, TASKS, lambda row: row.update(discarded=True)),
    "data": lambda folder: edit(folder, DATA, lambda row: row.update(discarded=True)),
}


@pytest.mark.parametrize("where", UNKNOWN)
def test_an_unknown_field_is_refused_until_the_user_drops_it(where: str, folder: Path) -> None:
    UNKNOWN[where](folder)
    with pytest.raises(InputError, match=r"has discarded, which .* give `rename_map='{\"discarded\": null}'`"):
        take(folder)
    assert len(take(folder, discarded=None)) == 25


def test_harmless_fields_change_nothing(folder: Path) -> None:
    before = take(folder)
    feature = dict.fromkeys(FEATURE_HARMLESS, 1) | {"info": dict.fromkeys(VIDEO_HARMLESS, 1) | {"is_depth_map": False}}
    change_info(folder, lambda info: info.update(dict.fromkeys(INFO_HARMLESS, 1)))
    change_info(folder, lambda info: info["features"][CAMERA].update(feature))
    edit(folder, EPISODES, lambda row: row.update({**dict.fromkeys(EPISODE_HARMLESS, 1), "stats/action/max": [1.0]}))
    edit(folder, DATA, lambda row: row.update(dict.fromkeys(ROW_HARMLESS, "say")))
    for frame, other in zip(take(folder), before, strict=True):
        np.testing.assert_equal(frame.observation, other.observation)


def test_episodes_of_every_split_are_taken_and_it_is_said(folder: Path) -> None:
    change_info(folder, lambda info: info.update(splits={"train": "0:3", "test": "3:4"}))
    assert "25 frames in 4 episodes of the splits train, test" in open_source(folder, LIBERO).description


BROKEN_INFO: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no frames per second": (lambda info: info.update(fps=-1), "fps is -1; it must be a number above 0"),
    "a text for fps": (lambda info: info.update(fps="10"), 'fps is "10"'),
    "a feature that is null": (lambda info: info["features"].update(action=None), "feature action is null"),
    "features in a list": (lambda info: info.update(features=[1]), "features is .*; it must be an object"),
    "no shape": (lambda info: info["features"][CAMERA].update(shape=None), "image with a shape, not None"),
    "a gray camera": (lambda info: info["features"][CAMERA].update(shape=[64, 64, 1]), "of three colors"),
    "a state of texts": (
        lambda info: info["features"]["observation.state"].update(dtype="string"),
        "observation.state of type float32 or .*, not string",
    ),
    "a matrix for a state": (
        lambda info: info["features"]["observation.state"].update(shape=[2, 4]),
        r"observation.state of shape \[8\], not \[2, 4\]",
    ),
    "whole numbers for floats": (
        lambda info: info["features"]["observation.state"].update(dtype="int64"),
        "observation.state holds float64, and .* declares int64",
    ),
    "depth": (lambda info: info["features"][CAMERA].update(info={"is_depth_map": True}), "is a depth map"),
    "depth, as older files say it": (
        lambda info: info["features"][CAMERA].update(video_info={"video.is_depth_map": True}),
        "is a depth map",
    ),
    "pictures of another size": (
        lambda info: info["features"][CAMERA].update(shape=[32, 32, 3]),
        r"picture of shape \[64, 64, 3\], and .* says \[32, 32, 3\]",
    ),
    "a path out of the folder": (lambda info: info.update(data_path="../{chunk_index}.parquet"), "a path inside"),
    "a path of unknown parts": (lambda info: info.update(data_path="{episode_index}.parquet"), "a path inside"),
    "a path as wide as memory": (lambda info: info.update(data_path="{chunk_index:0999999999d}"), "a path inside"),
    "a path of code": (lambda info: info.update(video_path="{video_key.__class__}"), "a path inside"),
    "half a template": (lambda info: info.update(data_path="{chunk_index"), "data_path is"),
    "no path for videos": (lambda info: info.update(video_path=None), "has no video_path"),
    "other totals": (lambda info: info.update(total_frames=26), "total_frames is 26, but meta/episodes has 25"),
    "totals that are no numbers": (lambda info: info.update(total_frames="25"), "it must be an integer"),
}


@pytest.mark.parametrize("what", BROKEN_INFO)
def test_broken_metadata_is_named(what: str, folder: Path) -> None:
    change, message = BROKEN_INFO[what]
    change_info(folder, change)
    with pytest.raises(InputError, match=message):
        take(folder)


def test_a_camera_of_depth_is_not_taken_for_a_missing_one(folder: Path) -> None:
    depth = {"dtype": "video", "shape": [64, 64, 1], "info": {"is_depth_map": True}}
    change_info(folder, lambda info: info["features"].update({"observation.images.depth": depth}))
    assert len(take(folder)) == 25


def encoded(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, f"row 3 .*: {CAMERA} is null"),
        ({"bytes": None, "path": "frame.png"}, "no picture in the table"),
        ({"bytes": b"", "path": None}, "not a readable picture"),
        ({"bytes": png(3)[:80], "path": None}, "not a readable picture"),
        ({"bytes": png(3)[:40] + b"\0" * 60, "path": None}, "not a readable picture"),
        ({"bytes": encoded("I;16"), "path": None}, "of mode I;16; a policy sees RGB"),
        ({"bytes": encoded("L"), "path": None}, "of mode L"),
        ({"bytes": encoded("RGBA"), "path": None}, "of mode RGBA"),
    ],
)
def test_a_cell_without_a_color_picture_is_named(cell: object, message: str, pictures: Path) -> None:
    rewrite(pictures, DATA, lambda rows: [*rows[:3], rows[3] | {CAMERA: cell}, *rows[4:]])
    with pytest.raises(InputError, match=message):
        take(pictures)


@pytest.mark.parametrize("dtype", ["video", "image"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_or_change_nothing_that_matters(
    dtype: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = write_lerobot(tmp_path_factory.mktemp("damaged"), (2, 3), dtype=dtype)
    file = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.sampled_from([1, 3, 20]))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    message = ""
    try:
        assert len(take(folder, 4)) == 4
    except InputError as error:
        message = str(error)
    assert "\n" not in message
