"""Writes a LeRobotDataset v3 folder, as its documentation describes one: several episodes in each file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from extras import needs
from PIL import Image

FPS = 10
SIZE = 64
TASKS = ("open the drawer", "push the plate")
CAMERAS = ("observation.images.image", "observation.images.image2")
STATE = {"observation.state": 8}


def brightness(index: int, camera: int) -> int:
    """The grey that frame `index` of the whole data set has: no two frames that follow each other are alike."""
    return 20 + (index * 37 + camera * 90) % 200


def write_lerobot(
    root: Path,
    lengths: Sequence[int] = (7, 4, 9, 5),
    *,
    cameras: Sequence[str] = CAMERAS,
    vectors: Mapping[str, int] = STATE,
    tasks: Sequence[str] = TASKS,
    dtype: str = "video",
    per_file: int = 3,
) -> Path:
    """Write episodes of `lengths` frames; `per_file` of them share each data file and each video file.

    Frame `i` of the whole has vectors [i, 0, …] and pictures in `brightness(i, camera)`; episode `e` does task e % 2.
    LeRobot writes a vector of one number as a number. Without the extra `lerobot` the test that asked is skipped.
    """
    needs("pyarrow", "av", remedy="pip install '.[lerobot]'")
    episodes: list[dict[str, Any]] = []
    rows: dict[int, list[dict[str, Any]]] = {}
    index = 0
    for episode, length in enumerate(lengths):
        file = episode // per_file
        first_of_file = sum(lengths[: file * per_file])
        entry = {"episode_index": episode, "tasks": [tasks[episode % 2]], "length": length}
        entry |= {"dataset_from_index": index, "dataset_to_index": index + length}
        entry |= {"data/chunk_index": 0, "data/file_index": file, "stats/index/mean": [0.0]}
        for camera in cameras if dtype == "video" else ():
            start = (index - first_of_file) / FPS
            entry |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": file}
            entry |= {f"videos/{camera}/from_timestamp": start, f"videos/{camera}/to_timestamp": start + length / FPS}
        episodes.append(entry)
        for frame in range(length):
            row = {"index": index, "episode_index": episode, "frame_index": frame, "timestamp": frame / FPS}
            row |= {"task_index": episode % 2, "action": [0.0] * 7}
            for name, width in vectors.items():
                row[name] = float(index) if width == 1 else [float(index), *[0.0] * (width - 1)]
            for number, camera in enumerate(cameras if dtype == "image" else ()):
                row[camera] = {"bytes": png(brightness(index, number)), "path": None}
            rows.setdefault(file, []).append(row)
            index += 1
    for file, table in rows.items():
        save(root / f"data/chunk-000/file-{file:03d}.parquet", table)
        for number, camera in enumerate(cameras if dtype == "video" else ()):
            video = root / f"videos/{camera}/chunk-000/file-{file:03d}.mp4"
            write_video(video, [brightness(row["index"], number) for row in table])
    save(root / "meta/episodes/chunk-000/file-000.parquet", episodes)
    save(root / "meta/tasks.parquet", [{"task_index": number, "task": text} for number, text in enumerate(tasks)])
    features: dict[str, Any] = {camera: {"dtype": dtype, "shape": [SIZE, SIZE, 3]} for camera in cameras}
    features |= {name: {"dtype": "float32", "shape": [width]} for name, width in {**vectors, "action": 7}.items()}
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("index", "episode_index")}
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "task_index")}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    info = {"codebase_version": "v3.0", "robot_type": "panda", "fps": FPS, "features": features}
    info |= {"total_episodes": len(lengths), "total_frames": index, "total_tasks": 2, "chunks_size": 1000}
    info |= {"data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"}
    info |= {"video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def save(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE, 3), grey, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_video(path: Path, greys: Sequence[int]) -> None:
    """One frame per grey, a key frame every fourth only, so that seeking has something to get wrong."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS, options={"g": "4", "qscale": "1"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for grey in greys:
            frame = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), grey, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
