"""A LeRobotDataset v3 folder: frames out of parquet tables and video files, without LeRobot.

What is relied on stands in huggingface/lerobot at 7427f31 (August 2026), `src/lerobot/datasets/`:

* `utils.py`: `meta/info.json` holds `codebase_version`, `fps`, `features` and the templates `data_path`
  (`data/chunk-…/file-….parquet`) and `video_path` (`videos/<feature>/chunk-…/file-….mp4`); many episodes share a file.
* `io_utils.py`: `meta/tasks.parquet` has `task_index` and, as pandas' index, the text (`task`; without a name in older
  files); `meta/episodes/*/*.parquet` has one row per episode.
* `dataset_writer.py`: such a row says which rows of the data it owns (`dataset_from_index` up to, not including,
  `dataset_to_index`, of the data's column `index`), in which file (`data/chunk_index`, `data/file_index`), and for each
  video feature the file (`videos/<feature>/chunk_index`, `…/file_index`) and the second at which it begins there
  (`videos/<feature>/from_timestamp`).
* `dataset_reader.py`: so a frame is found at `from_timestamp` + the row's own `timestamp`. Features of type `image` lie
  as encoded pictures in the data's own column.

LIBERO's pictures are already turned by 180° (`docs/source/env_processor.mdx`), as policies get them.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlapack.checkpoints.base import PolicyConfig, read_json
from vlapack.errors import InputError
from vlapack.observations.frame import Frame, as_recorded, spread
from vlapack.observations.lerobot_features import Renaming, match_features
from vlapack.observations.video import frames_at, optional
from vlapack.robots.fields import PROMPT_KEY, Field
from vlapack.robots.layouts import layout_of

INFO_FILE = "meta/info.json"
TASKS_FILE = "meta/tasks.parquet"
EPISODES = "meta/episodes"


@dataclass(frozen=True, eq=False)
class LerobotDataset:
    """An opened data set; `open` makes it.

    Attributes:
        root: the folder.
        info: `meta/info.json`.
        config: the policy that the frames are for.
        features: the part of the policy's observation → the feature that it is read from.
        episodes: one row per episode, in order of `episode_index`.
    """

    root: Path
    info: Mapping[str, Any]
    config: PolicyConfig
    features: Mapping[Field, str]
    episodes: Sequence[Mapping[str, Any]]

    @classmethod
    def open(cls, root: Path, config: PolicyConfig, renaming: Renaming) -> LerobotDataset:
        """Read the metadata.

        Raises:
            InputError: another version, features that are not the robot's, damaged tables, or a missing extra.
        """
        info = read_json(root / INFO_FILE)
        version = str(info.get("codebase_version"))
        if not version.startswith("v3."):
            raise InputError(
                f"{root / INFO_FILE}: codebase_version is {version}; this reads v3, and LeRobot's "
                "lerobot.scripts.convert_dataset_v21_to_v30 converts v2.1"
            )
        if missing := [key for key in ("fps", "features", "data_path") if not info.get(key)]:
            raise InputError(f"{root / INFO_FILE}: has no {', '.join(missing)}; download the data set again")
        features = match_features(info["features"], config, renaming, root / INFO_FILE)
        columns = ["episode_index", "dataset_from_index", "dataset_to_index", "data/chunk_index", "data/file_index"]
        for feature in features.values():
            if _dtype(info, feature) == "video":
                columns += [f"videos/{feature}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
        files = sorted((root / EPISODES).glob("*/*.parquet"))
        rows = [row for file in files for row in _read(file, columns)]
        if not rows:
            raise InputError(f"{root / EPISODES}: lists no episodes; download the whole data set")
        return cls(root, info, config, features, sorted(rows, key=lambda row: int(row["episode_index"])))

    @property
    def description(self) -> str:
        """What it is and how much it holds."""
        read_from = ", ".join(self.features.values())
        missing = [field.name for field in layout_of(self.config).fields if field not in self.features]
        return (
            f"LeRobotDataset {self.info['codebase_version']}, {len(self)} frames in {len(self.episodes)} episodes "
            f"({read_from}{'; without ' + ', '.join(missing) if missing else ''})"
        )

    def __len__(self) -> int:
        return sum(self._lengths())

    def take(self, count: int) -> list[Frame]:
        """Read `count` frames: the same number from every episode, as far as it goes, and evenly within each.

        Raises:
            InputError: a data or video file that is missing, damaged or too short, or a frame that no policy could use.
        """
        chosen = [(self.episodes[episode], frame) for episode, frame in spread(self._lengths(), count)]
        rows = self._rows(chosen)
        pictures = {
            part: self._pictures(feature, rows) for part, feature in self.features.items() if part.width is None
        }
        layout, tasks = layout_of(self.config), self._tasks()
        frames = []
        for number, (episode, frame) in enumerate(chosen):
            row, name = rows[number].values, f"episode {episode['episode_index']} frame {frame}"
            if (task := row["task_index"]) not in tasks:
                raise InputError(f"{self.root / TASKS_FILE}: has no task {task}, which {name} names")
            raw: dict[str, Any] = {}
            for part, feature in self.features.items():
                part.put(raw, pictures[part][number] if part.width is None else np.atleast_1d(row[feature]))
            if tasks[task].strip():
                raw[PROMPT_KEY] = tasks[task]
            where = f"{rows[number].file}: {name}"
            observation = as_recorded(raw, layout, where, default_prompt=self.config.default_prompt)
            source = {"episode_index": episode["episode_index"], "frame_index": frame, "task_index": task}
            frames.append(Frame(name, observation, source))
        return frames

    def _lengths(self) -> list[int]:
        return [int(row["dataset_to_index"]) - int(row["dataset_from_index"]) for row in self.episodes]

    def _rows(self, chosen: Sequence[tuple[Mapping[str, Any], int]]) -> list[_Row]:
        """Fetch the data rows of (episode, frame) pairs, file by file."""
        columns = ["index", "timestamp", "task_index"]
        columns += [feature for feature in self.features.values() if _dtype(self.info, feature) != "video"]
        wanted = [int(episode["dataset_from_index"]) + frame for episode, frame in chosen]
        by_file = defaultdict(list)
        for number, (episode, _) in enumerate(chosen):
            by_file[self._path("data_path", episode, "data")].append(number)
        found: dict[int, _Row] = {}
        for file, numbers in by_file.items():
            indices = [wanted[number] for number in numbers]
            by_index = {row["index"]: row for row in _read(file, columns, indices)}
            for number, index in zip(numbers, indices, strict=True):
                if index not in by_index:
                    raise InputError(f"{file}: has no row of index {index}, which {EPISODES} says is in it")
                found[number] = _Row(file, chosen[number][0], by_index[index])
        return [found[number] for number in range(len(chosen))]

    def _pictures(self, feature: str, rows: Sequence[_Row]) -> list[np.ndarray]:
        """Decode one camera's pictures, uint8 [H, W, 3] each, in the order of `rows`."""
        if _dtype(self.info, feature) == "image":
            return [_decode(row.values[feature], f"{row.file}: {feature}") for row in rows]
        by_file = defaultdict(list)
        for number, row in enumerate(rows):
            start = float(row.episode[f"videos/{feature}/from_timestamp"])
            time = start + float(row.values["timestamp"])
            by_file[self._path("video_path", row.episode, f"videos/{feature}", feature)].append((time, number))
        shown: dict[int, np.ndarray] = {}
        for file, moments in by_file.items():
            moments.sort()
            times, numbers = zip(*moments, strict=True)
            shown.update(zip(numbers, frames_at(file, times, tolerance=0.5 / float(self.info["fps"])), strict=True))
        return [shown[number] for number in range(len(rows))]

    def _tasks(self) -> dict[int, str]:
        rows = _read(self.root / TASKS_FILE)
        texts = {"task", "__index_level_0__"}
        try:
            return {int(row["task_index"]): str(row[next(name for name in row if name in texts)]) for row in rows}
        except (KeyError, StopIteration) as error:
            raise InputError(
                f"{self.root / TASKS_FILE}: columns {list(rows[0])}; a task has task_index and task"
            ) from error

    def _path(self, template: str, episode: Mapping[str, Any], prefix: str, feature: str = "") -> Path:
        """Fill in one of the info's path templates for an episode."""
        chunk, file = int(episode[f"{prefix}/chunk_index"]), int(episode[f"{prefix}/file_index"])
        try:
            path: str = self.info[template].format(chunk_index=chunk, file_index=file, video_key=feature)
        except (KeyError, AttributeError) as error:
            raise InputError(f"{self.root / INFO_FILE}: {template} is {self.info.get(template)!r}: {error}") from error
        return self.root / path


@dataclass(frozen=True, eq=False)
class _Row:
    """One row of the data, the file that it stands in and its episode."""

    file: Path
    episode: Mapping[str, Any]
    values: Mapping[str, Any]


def _dtype(info: Mapping[str, Any], feature: str) -> str:
    return str(info["features"][feature].get("dtype"))


def _read(
    file: Path, columns: Sequence[str] | None = None, indices: Iterable[int] | None = None
) -> list[dict[str, Any]]:
    """Read a parquet table's rows, those of the given `index` only; InputError naming the file."""
    parquet, arrow = optional("pyarrow.parquet"), optional("pyarrow")
    if not file.is_file():
        raise InputError(f"{file}: is not there; download the whole data set")
    filters = None if indices is None else [("index", "in", list(indices))]
    try:
        rows: list[dict[str, Any]] = parquet.read_table(file, columns=columns, filters=filters).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: not a parquet table with {columns or 'rows'}: {reason}") from error
    return rows


def _decode(cell: Any, where: str) -> np.ndarray:
    """Decode a picture that lies in a table: `{"bytes": …, "path": …}`, as `datasets` stores it."""
    try:
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            return np.asarray(image.convert("RGB"))
    except (TypeError, KeyError, UnidentifiedImageError, OSError) as error:
        raise InputError(f"{where}: a picture that cannot be decoded: {error}") from error
