"""A LeRobotDataset v3 folder: frames out of parquet tables and video files, without LeRobot.

What is relied on stands in huggingface/lerobot at 7427f31 (August 2026), `src/lerobot/datasets/`:

* `utils.py`: `meta/info.json` holds `codebase_version`, `fps`, `features` and the templates `data_path`
  (`data/chunk-…/file-….parquet`) and `video_path` (`videos/<feature>/chunk-…/file-….mp4`); many episodes share a file.
* `io_utils.py`: `meta/tasks.parquet` has `task_index` and, as pandas' index, the text (`task`; without a name in older
  files); `meta/episodes/*/*.parquet` has one row per episode.
* `dataset_writer.py`: such a row says how many rows of the data it owns (`length`) and from which `index` on
  (`dataset_from_index`), in which file (`data/chunk_index`, `data/file_index`), and for each video feature the file
  (`videos/<feature>/chunk_index`, `…/file_index`) and the seconds that it takes up there (`…/from_timestamp` up to
  `…/to_timestamp`). A row of the data names its own episode and frame (`episode_index`, `frame_index`).
* `dataset_reader.py`: so a frame is found at `from_timestamp` + the row's own `timestamp`. Features of type `image` lie
  as encoded pictures in the data's own column.

LIBERO's pictures are already turned by 180° (`docs/source/env_processor.mdx`), as policies get them.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.errors import InputError
from vlapack.observations.frame import Frame, as_recorded, spread
from vlapack.observations.lerobot_features import Renaming, match_features
from vlapack.observations.lerobot_info import DatasetInfo
from vlapack.observations.lerobot_tables import (
    TASKS_FILE,
    Episode,
    Part,
    Row,
    find_rows,
    read_episodes,
    read_tasks,
)
from vlapack.observations.pictures import read_rgb
from vlapack.observations.video import frames_at
from vlapack.robots.fields import PROMPT_KEY, Field
from vlapack.robots.layouts import layout_of

# How near the end of its part of a video a frame may be asked for: float32 timestamps are no more exact.
ROUNDING = 1e-4


@dataclass(frozen=True, eq=False)
class LerobotDataset:
    """An opened data set; `open` makes it.

    Attributes:
        root: the folder
        info: `meta/info.json`
        config: the policy that the frames are for
        features: the part of the policy's observation → the feature that it is read from
        episodes: in order of `episode_index`
    """

    root: Path
    info: DatasetInfo
    config: PolicyConfig
    features: Mapping[Field, str]
    episodes: Sequence[Episode]

    @classmethod
    def open(cls, root: Path, config: PolicyConfig, renaming: Renaming) -> LerobotDataset:
        """Read the metadata.

        Args:
            root: the data set's folder
            config: of the policy that the frames are for
            renaming: features under other names; a field or a column that is unknown is ignored if it is turned to None

        Raises:
            InputError: another version, features that are not the robot's, damaged tables, or a missing extra.
        """
        info = DatasetInfo.read(root, [name for name, field in renaming.items() if field is None])
        said = {name: field for name, field in renaming.items() if field is not None or name in info.features}
        features = match_features(info.features, config, said, info.file)
        for feature in features.values():
            info.check_feature(feature)
        videos = [feature for feature in features.values() if info.dtype(feature) == "video"]
        if videos and info.video_path is None:
            raise InputError(f"{info.file}: has no video_path, and {videos[0]} is a video; download the data set again")
        return cls(root, info, config, features, read_episodes(root, info, videos))

    @property
    def description(self) -> str:
        """What it is and how much it holds."""
        read_from = ", ".join(self.features.values())
        missing = [field.name for field in layout_of(self.config).fields if field not in self.features]
        splits = f"of the splits {', '.join(self.info.splits)} " if len(self.info.splits) > 1 else ""
        return (
            f"LeRobotDataset {self.info.version}, {len(self)} frames in {len(self.episodes)} episodes "
            f"{splits}({read_from}{'; without ' + ', '.join(missing) if missing else ''})"
        )

    def __len__(self) -> int:
        return sum(self._lengths())

    def take(self, count: int) -> list[Frame]:
        """Read `count` frames: the same number from every episode, as far as it goes, and evenly within each.

        Raises:
            InputError: a data or video file that is missing, damaged or too short, rows that are doubled, missing or
                null, or a frame that no policy could use; it names file and row.
        """
        rows = self._rows([(self.episodes[episode], frame) for episode, frame in spread(self._lengths(), count)])
        pictures = {
            part: self._pictures(feature, rows) for part, feature in self.features.items() if part.width is None
        }
        layout, tasks = layout_of(self.config), read_tasks(self.root, self.info.ignored)
        frames = []
        for number, row in enumerate(rows):
            if row.task not in tasks:
                raise InputError(f"{self.root / TASKS_FILE}: has no task {row.task}, which {row.where} names")
            raw: dict[str, Any] = {}
            for part, feature in self.features.items():
                part.put(raw, pictures[part][number] if part.width is None else self._vector(row, feature))
            if tasks[row.task].strip():
                raw[PROMPT_KEY] = tasks[row.task]
            observation = as_recorded(raw, layout, row.where, default_prompt=self.config.default_prompt)
            source = {"episode_index": row.episode.index, "frame_index": row.frame, "task_index": row.task}
            frames.append(Frame(f"episode {row.episode.index} frame {row.frame}", observation, source))
        return frames

    def _lengths(self) -> list[int]:
        return [episode.length for episode in self.episodes]

    def _rows(self, chosen: Sequence[tuple[Episode, int]]) -> list[Row]:
        """Fetch the data rows of (episode, frame) pairs, file by file."""
        columns = [feature for feature in self.features.values() if self.info.dtype(feature) != "video"]
        by_file = defaultdict(list)
        for episode, frame in chosen:
            by_file[self._path(self.info.data_path, episode.data)].append((episode, frame))
        found: dict[tuple[int, int], Row] = {}
        for file, wanted in by_file.items():
            found |= find_rows(file, wanted, columns, self.info)
        return [found[episode.index, frame] for episode, frame in chosen]

    def _vector(self, row: Row, feature: str) -> np.ndarray:
        """Return a feature's numbers [width] in the type that the metadata declares, as LeRobot's reader does."""
        numbers, dtype = np.atleast_1d(np.asarray(row.values[feature])), self.info.dtype(feature)
        if numbers.dtype.kind not in "iuf":
            raise InputError(f"{row.where}: {feature} is {row.values[feature]!r}; it must be numbers without null")
        if not np.can_cast(numbers.dtype, dtype, "same_kind"):
            raise InputError(f"{row.where}: {feature} holds {numbers.dtype}, and {self.info.file} declares {dtype}")
        return numbers.astype(dtype)

    def _pictures(self, feature: str, rows: Sequence[Row]) -> list[np.ndarray]:
        """Decode one camera's pictures, uint8 [H, W, 3] each, in the order of `rows`."""
        shape = self.info.features[feature]["shape"]
        shown: dict[int, np.ndarray] = {}
        if self.info.dtype(feature) == "image":
            shown = {number: _decode(row.values[feature], f"{row.where}: {feature}") for number, row in enumerate(rows)}
        else:
            by_file = defaultdict(list)
            for number, row in enumerate(rows):
                part = row.episode.videos[feature]
                time = part.start + row.timestamp
                if time > part.end - ROUNDING:
                    raise InputError(
                        f"{row.where}: timestamp {row.timestamp} is beyond the episode's part of {feature}, which "
                        f"takes {part.end - part.start} s; download the whole data set again"
                    )
                by_file[self._path(self.info.video_path, part, feature)].append((time, number))
            for file, moments in by_file.items():
                moments.sort()
                times, numbers = zip(*moments, strict=True)
                shown.update(zip(numbers, frames_at(file, times, tolerance=0.5 / self.info.fps), strict=True))
        for number, picture in shown.items():
            if sorted(picture.shape) != sorted(shape):
                raise InputError(
                    f"{rows[number].where}: {feature} is a picture of shape {list(picture.shape)}, and "
                    f"{self.info.file} says {shape}; download the whole data set again"
                )
        return [shown[number] for number in range(len(rows))]

    def _path(self, template: str | None, part: Part, feature: str = "") -> Path:
        """Fill in one of the info's path templates."""
        assert template is not None  # `open` has seen to it
        return self.root / template.format(chunk_index=part.chunk, file_index=part.file, video_key=feature)


def _decode(cell: Any, where: str) -> np.ndarray:
    """Decode a picture that lies in a table: `{"bytes": …, "path": …}`, as `datasets` stores it."""
    data = cell.get("bytes") if isinstance(cell, Mapping) else None
    if not isinstance(data, bytes):
        raise InputError(
            f"{where}: no picture in the table ({type(cell).__name__}); LeRobot's writer puts its bytes there"
        )
    return read_rgb(io.BytesIO(data), where)
