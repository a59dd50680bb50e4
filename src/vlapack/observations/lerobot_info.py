"""What the metadata of a LeRobotDataset v3 may say, and what each field of it means here.

Every name is honored (`*_READ`), harmless for a reason (`*_HARMLESS`), or refused. `rename_map` to null drops a name
that is refused. The meanings are those of huggingface/lerobot at 7427f31 (August 2026), `src/lerobot/datasets/`:
`DatasetInfo` in `utils.py`, `get_video_info` in `video_utils.py`, `is_depth_map` in `configs/video.py`,
`_save_episode_metadata` in `dataset_metadata.py` and `convert_dataset_v21_to_v30.py`.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlapack.documents import read_json
from vlapack.errors import InputError

INFO_FILE = "meta/info.json"

INFO_READ = (
    "codebase_version",
    "fps",
    "features",
    "data_path",
    "video_path",
    "total_episodes",
    "total_frames",
    "splits",
)
INFO_HARMLESS: Mapping[str, str] = {
    "robot_type": "the features decide whether the data fit the policy",
    "total_tasks": "every task that a row names is looked up",
    "total_chunks": "a count of v2.1",
    "total_videos": "a count of v2.1",
    "chunks_size": "a limit for writing; each episode names its files",
    "data_files_size_in_mb": "a limit for writing",
    "video_files_size_in_mb": "a limit for writing",
    "tools": "schemas for chat templates, which π0 has none of",
}

FEATURE_READ = ("dtype", "shape", "info", "video_info")
FEATURE_HARMLESS: Mapping[str, str] = {
    "names": "what people call the axes; the policy knows its own by position",
    "fps": "the converter from v2.1 repeats the data set's",
    "description": "for people",
}

DEPTH_MARKS = ("is_depth_map", "video.is_depth_map")
VIDEO_HARMLESS: Mapping[str, str] = {
    "video.height": "the decoded picture is held against the feature's shape",
    "video.width": "the decoded picture is held against the feature's shape",
    "video.fps": "a frame is found by its time",
    "video.codec": "the file itself says how to decode it",
    "video.pix_fmt": "the file itself says how to decode it",
    "video.channels": "the file itself says how to decode it",
    **{
        f"video.{name}": "how the video was encoded"
        for name in ("g", "crf", "preset", "fast_decode", "extra_options", "video_backend")
    },
    **{f"video.{name}": "of depth maps, which are refused" for name in ("depth_min", "depth_max", "shift", "use_log")},
    "depth_unit": "of depth maps, which are refused",
    "has_audio": "sound is not read",
    **{
        f"audio.{name}": "sound is not read"
        for name in ("channels", "codec", "bit_rate", "sample_rate", "bit_depth", "channel_layout")
    },
}

EPISODE_READ = (
    "episode_index",
    "length",
    "dataset_from_index",
    "dataset_to_index",
    "data/chunk_index",
    "data/file_index",
)
EPISODE_VIDEO_READ = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
EPISODE_HARMLESS: Mapping[str, str] = {
    "tasks": "every row of the data names its own task",
    "meta/episodes/chunk_index": "the file that the row is in",
    "meta/episodes/file_index": "the file that the row is in",
}
STATISTICS = "stats/"  # harmless: the policy brings its own statistics

TASK_READ = ("task_index", "task", "__index_level_0__")

ROW_READ = ("index", "episode_index", "frame_index", "timestamp", "task_index")
ROW_HARMLESS: Mapping[str, str] = {
    "language_persistent": "rendered into chats, not read by π0",
    "language_events": "rendered into chats, not read by π0",
}


@dataclass(frozen=True, eq=False)
class DatasetInfo:
    """What `meta/info.json` says.

    Attributes:
        file: the file itself, for messages
        version: of the format, such as v3.0
        fps: frames per second
        features: name → its description
        data_path, video_path: templates of paths; None where there is none
        totals: `total_episodes` and `total_frames`, those that are given
        splits: their names; LeRobot reads the episodes of all of them
        ignored: what `rename_map` turns to null
    """

    file: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    data_path: str | None
    video_path: str | None
    totals: Mapping[str, int]
    splits: tuple[str, ...]
    ignored: frozenset[str]

    @classmethod
    def read(cls, root: Path, ignored: Collection[str] = ()) -> DatasetInfo:
        """Read and check it.

        Raises:
            InputError: another version, an unknown field, or a value of the wrong kind.
        """
        file = root / INFO_FILE
        info = read_json(file)
        version = str(info.get("codebase_version"))
        if not version.startswith("v3."):
            raise InputError(
                f"{file}: codebase_version is {version}; this reads v3, and LeRobot's "
                "lerobot.scripts.convert_dataset_v21_to_v30 converts v2.1"
            )
        refuse_unknown(info, (*INFO_READ, *INFO_HARMLESS), ignored, f"{file}")
        if missing := [key for key in ("fps", "features", "data_path") if not info.get(key)]:
            raise InputError(f"{file}: has no {', '.join(missing)}; download the data set again")
        features = info["features"]
        if not isinstance(features, dict):
            raise InputError(f"{file}: features is {_shown(features)}; it must be an object")
        for name, described in features.items():
            if not (isinstance(described, dict) and isinstance(described.get("dtype"), str)):
                raise InputError(f"{file}: feature {name} is {_shown(described)}; it must be an object with a dtype")
        fps = info["fps"]
        if not (_is_number(fps) and math.isfinite(fps) and fps > 0):
            raise InputError(f"{file}: fps is {_shown(fps)}; it must be a number above 0")
        totals = {key: info[key] for key in ("total_episodes", "total_frames") if info.get(key) is not None}
        for key, value in totals.items():
            if not (isinstance(value, int) and not isinstance(value, bool)):
                raise InputError(f"{file}: {key} is {_shown(value)}; it must be an integer")
        splits = info.get("splits") or {}
        if not isinstance(splits, dict):
            raise InputError(f"{file}: splits is {_shown(splits)}; it must be an object")
        return cls(
            file=file,
            version=version,
            fps=float(fps),
            features=features,
            data_path=_template(file, info, "data_path", {"chunk_index", "file_index"}),
            video_path=_template(file, info, "video_path", {"chunk_index", "file_index", "video_key"}),
            totals=totals,
            splits=tuple(splits),
            ignored=frozenset(ignored),
        )

    def dtype(self, feature: str) -> str:
        """Return how a feature is stored: `video`, `image` or the type of its numbers."""
        return str(self.features[feature]["dtype"])

    def check_feature(self, name: str) -> None:
        """Check the description of a feature that the policy reads.

        Raises:
            InputError: a field that this version does not know, or a depth map.
        """
        described, where = self.features[name], f"{self.file}: feature {name}"
        refuse_unknown(described, (*FEATURE_READ, *FEATURE_HARMLESS), self.ignored, where)
        for key in ("info", "video_info"):
            said = described.get(key)
            if said is None:
                continue
            if not isinstance(said, dict):
                raise InputError(f"{where}: {key} is {_shown(said)}; it must be an object")
            refuse_unknown(said, (*DEPTH_MARKS, *VIDEO_HARMLESS), self.ignored, f"{where}: {key}")
        if is_depth_map(described):
            raise InputError(f"{where} is a depth map; the policy reads colors: name a camera with `rename_map`")


def is_depth_map(described: Mapping[str, Any]) -> bool:
    """Whether a feature holds distances, by any of the marks that LeRobot has used."""
    told = [said for key in ("info", "video_info") if isinstance(said := described.get(key), Mapping)]
    return any(said.get(mark) for said in told for mark in DEPTH_MARKS)


def refuse_unknown(names: Iterable[str], known: Collection[str], ignored: Collection[str], where: str) -> None:
    """Refuse names that are neither known nor dropped by the user.

    Raises:
        InputError: naming them, and how to drop them.
    """
    if unknown := [name for name in names if name not in known and name not in ignored]:
        drop = json.dumps(dict.fromkeys(unknown))
        raise InputError(
            f"{where} has {', '.join(unknown)}, which this version does not know: if no observation depends on it, "
            f"give `rename_map={drop!r}`"
        )


# The widest that LeRobot writes is 06d; a larger one only fills memory.
WIDTH = re.compile(r"(0?\d{1,2})?d?")


def _template(file: Path, info: Mapping[str, Any], key: str, fields: Collection[str]) -> str | None:
    """Return a template of paths that stay in the data set's folder."""
    template = info.get(key)
    if template is None:
        return None
    try:
        parts = list(string.Formatter().parse(template))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: {key} is {_shown(template)}: {error}") from error
    plain = all(
        name is None or (name in fields and not conversion and WIDTH.fullmatch(spec or ""))
        for _, name, spec, conversion in parts
    )
    if not plain or Path(template).is_absolute() or ".." in Path(template).parts:
        raise InputError(
            f"{file}: {key} is {_shown(template)}; it must be a path inside the data set, made of "
            f"{', '.join(sorted(fields))}"
        )
    return str(template)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
