"""The tables of a LeRobotDataset v3: episodes, tasks, and the data's rows, each found by its episode and frame.

A row is the one whose `episode_index` and `frame_index` are asked for. `index`, which counts through the whole data
set, must then agree with the episode's `dataset_from_index`: where it does not, the tables are of two data sets.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlapack.errors import InputError
from vlapack.observations.lerobot_info import (
    EPISODE_HARMLESS,
    EPISODE_READ,
    EPISODE_VIDEO_READ,
    ROW_HARMLESS,
    ROW_READ,
    STATISTICS,
    TASK_READ,
    DatasetInfo,
    refuse_unknown,
)
from vlapack.observations.parquet import AGAIN, column_names, read_rows, read_table
from vlapack.observations.video import optional

TASKS_FILE = "meta/tasks.parquet"
EPISODES = "meta/episodes"

KEYS = ("episode_index", "frame_index", "index")


@dataclass(frozen=True)
class Part:
    """Where an episode's frames are: a file by its numbers, and for a video the seconds in it."""

    chunk: int
    file: int
    start: float = 0.0
    end: float = math.inf


@dataclass(frozen=True, eq=False)
class Episode:
    """One row of the table of episodes.

    Attributes:
        index: `episode_index`
        first: `index` of its first row
        length: how many rows it has
        data: the file with its rows
        videos: video feature → the file with its pictures, and the time in it
    """

    index: int
    first: int
    length: int
    data: Part
    videos: Mapping[str, Part]


def read_episodes(root: Path, info: DatasetInfo, videos: Sequence[str]) -> list[Episode]:
    """Read the episodes, in order of `episode_index`.

    Args:
        root: the data set's folder
        info: its metadata
        videos: the video features that are read

    Raises:
        InputError: no episodes, a duplicate or a gap, other totals than the metadata's, an unknown column, or a value
            that is null or of the wrong kind.
    """
    wanted = [*EPISODE_READ, *(f"videos/{feature}/{name}" for feature in videos for name in EPISODE_VIDEO_READ)]
    others = (f"videos/{feature}/{name}" for feature in info.features for name in EPISODE_VIDEO_READ)
    known = {*wanted, *others, *EPISODE_HARMLESS}
    episodes: dict[int, Episode] = {}
    for file in sorted((root / EPISODES).glob("*/*.parquet")):
        names = [name for name in column_names(file) if not name.startswith(STATISTICS)]
        refuse_unknown(names, known, info.ignored, f"{file}: the table")
        for number, row in enumerate(read_rows(file, wanted)):
            episode = _episode(row, f"{file}: row {number}", videos)
            if episode.index in episodes:
                raise InputError(f"{file}: row {number}: episode {episode.index} appears twice; {AGAIN}")
            episodes[episode.index] = episode
    if not episodes:
        raise InputError(f"{root / EPISODES}: lists no episodes; download the whole data set")
    ordered = sorted(episodes)
    gap = next((place for place, index in enumerate(ordered) if place != index), None)
    if gap is not None:
        raise InputError(f"{root / EPISODES}: has no episode {gap}, but {ordered[-1]}; {AGAIN}")
    found = {
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes.values()),
    }
    for key, total in info.totals.items():
        if total != found[key]:
            raise InputError(f"{info.file}: {key} is {total}, but {EPISODES} has {found[key]}; {AGAIN}")
    return [episodes[index] for index in ordered]


def _episode(row: Mapping[str, Any], where: str, videos: Sequence[str]) -> Episode:
    first, end, length = (_count(row, key, where) for key in ("dataset_from_index", "dataset_to_index", "length"))
    if length < 1 or end - first != length:
        raise InputError(
            f"{where}: length is {length}, but dataset_from_index and dataset_to_index are {first} and {end}; {AGAIN}"
        )
    parts = {}
    for feature in videos:
        prefix = f"videos/{feature}/"
        start, stop = (_seconds(row, f"{prefix}{edge}_timestamp", where) for edge in ("from", "to"))
        if stop <= start:
            raise InputError(f"{where}: {prefix}to_timestamp is {stop}, and from_timestamp {start}; {AGAIN}")
        parts[feature] = Part(*_file(row, prefix, where), start, stop)
    return Episode(_count(row, "episode_index", where), first, length, Part(*_file(row, "data/", where)), parts)


def read_tasks(root: Path, ignored: Collection[str]) -> dict[int, str]:
    """Read the instructions, by `task_index`.

    Raises:
        InputError: no table of tasks, a null, a duplicate or an unknown column.
    """
    file = root / TASKS_FILE
    names = column_names(file)
    refuse_unknown(names, TASK_READ, ignored, f"{file}: the table")
    # Older files have pandas' index without a name.
    text = next((name for name in ("task", "__index_level_0__") if name in names), None)
    if "task_index" not in names or text is None:
        raise InputError(f"{file}: columns {names}; a task has task_index and task")
    tasks: dict[int, str] = {}
    for number, row in enumerate(read_rows(file)):
        index, task, where = _count(row, "task_index", f"{file}: row {number}"), row[text], f"{file}: row {number}"
        if not isinstance(task, str):
            raise InputError(f"{where}: the task is {_null(task)}; a task is a text")
        if index in tasks:
            raise InputError(f"{where}: task_index {index} appears twice; {AGAIN}")
        tasks[index] = task
    return tasks


@dataclass(frozen=True, eq=False)
class Row:
    """One frame's row of the data.

    Attributes:
        where: file, episode, frame and row, for messages
        episode: the episode that it belongs to
        frame: its number there
        timestamp: seconds from the episode's beginning
        task: its `task_index`
        values: the features that lie in the table
    """

    where: str
    episode: Episode
    frame: int
    timestamp: float
    task: int
    values: Mapping[str, Any]


def find_rows(
    file: Path, wanted: Sequence[tuple[Episode, int]], features: Sequence[str], info: DatasetInfo
) -> dict[tuple[int, int], Row]:
    """Fetch rows of one data file by their episode and frame.

    Args:
        file: the parquet file
        wanted: episodes and frames, all in that file
        features: the columns with what a policy reads
        info: the data set's metadata

    Returns:
        (episode_index, frame) → its row.

    Raises:
        InputError: a column that the metadata does not declare; a wanted episode of which rows are missing, doubled
            or numbered otherwise; or a null among what is read.
    """
    refuse_unknown(column_names(file), {*info.features, *ROW_READ, *ROW_HARMLESS}, info.ignored, f"{file}: the table")
    numbers = _row_numbers(file, {episode.index: episode for episode, _ in wanted})
    compute = optional("pyarrow.compute")
    episodes = sorted({episode.index for episode, _ in wanted})
    place = compute.field("episode_index").cast("int64") * FRAMES + compute.field("frame_index").cast("int64")
    # The first condition lets parquet skip whole groups of rows, the second names the rows.
    filters = compute.field("episode_index").isin(episodes) & place.isin(
        [episode.index * FRAMES + frame for episode, frame in wanted]
    )
    columns = [*dict.fromkeys((*KEYS, "timestamp", "task_index", *features))]
    values = {(row["episode_index"], row["frame_index"]): row for row in read_rows(file, columns, filters)}
    rows = {}
    for episode, frame in wanted:
        found, number = values[episode.index, frame], numbers[episode.index, frame]
        where = f"{file}: row {number} (episode {episode.index} frame {frame})"
        for feature in features:
            if found[feature] is None:
                raise InputError(f"{where}: {feature} is null; {AGAIN}")
        seconds, task = _seconds(found, "timestamp", where), _count(found, "task_index", where)
        rows[episode.index, frame] = Row(where, episode, frame, seconds, task, found)
    return rows


# More than any episode has; episode_index · FRAMES + frame_index still fits into 64 bits.
FRAMES = 2**32


def _row_numbers(file: Path, episodes: Mapping[int, Episode]) -> dict[tuple[int, int], int]:
    """Number the rows of some episodes, having checked that each frame is there once."""
    table = read_table(file, KEYS)
    columns = []
    for name in KEYS:
        column = table.column(name)
        if column.null_count:
            row = next(number for number, value in enumerate(column.to_pylist()) if value is None)
            raise InputError(f"{file}: row {row}: {name} is null; {AGAIN}")
        if not optional("pyarrow").types.is_integer(column.type):
            raise InputError(f"{file}: {name} is of type {column.type}; it must be an integer; {AGAIN}")
        columns.append(column.to_numpy().astype(np.int64))
    episode_column, frame_column, index_column = columns
    numbers: dict[tuple[int, int], int] = {}
    order = np.argsort(episode_column, kind="stable")
    ordered = episode_column[order]
    for index, episode in episodes.items():
        low, high = np.searchsorted(ordered, index), np.searchsorted(ordered, index, side="right")
        for row in order[low:high].tolist():
            frame = int(frame_column[row])
            where = f"{file}: row {row}: episode {index} frame {frame}"
            if (index, frame) in numbers:
                raise InputError(f"{where} is in row {numbers[index, frame]} too; {AGAIN}")
            if not 0 <= frame < episode.length:
                raise InputError(f"{where} is outside the {episode.length} frames that {EPISODES} gives; {AGAIN}")
            if index_column[row] != episode.first + frame:
                raise InputError(
                    f"{where} has index {index_column[row]}; by {EPISODES} it is {episode.first + frame}; {AGAIN}"
                )
            numbers[index, frame] = row
        if high - low < episode.length:  # none appears twice, so one is missing
            frames = np.sort(frame_column[order[low:high]])
            missing = int(np.flatnonzero(np.append(frames, -1) != np.arange(len(frames) + 1))[0])
            raise InputError(f"{file}: has no row for episode {index} frame {missing}; {AGAIN}")
    return numbers


def _count(row: Mapping[str, Any], key: str, where: str) -> int:
    value = row[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{where}: {key} is {_null(value)}; it must be an integer, 0 or more; {AGAIN}")
    return value


def _seconds(row: Mapping[str, Any], key: str, where: str) -> float:
    value = row[key]
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    if not good:
        raise InputError(f"{where}: {key} is {_null(value)}; it must be a number of seconds, 0 or more; {AGAIN}")
    return float(value)


def _file(row: Mapping[str, Any], prefix: str, where: str) -> tuple[int, int]:
    return _count(row, f"{prefix}chunk_index", where), _count(row, f"{prefix}file_index", where)


def _null(value: Any) -> str:
    return "null" if value is None else repr(value)
