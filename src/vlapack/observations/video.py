"""Single frames out of a video file, by their time, with PyAV."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlapack.documents import is_file
from vlapack.errors import InputError, install


def optional(module: str) -> Any:
    """Import a module of the extra `lerobot`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"a LeRobot dataset is read with pyarrow and PyAV, and {module} cannot be imported ({error}): "
            f"{install('lerobot')}"
        ) from error


def frames_at(path: Path, seconds: Sequence[float], tolerance: float) -> list[np.ndarray]:
    """Decode the frames nearest to the given times.

    Args:
        path: a video file in any codec that FFmpeg decodes.
        seconds: presentation times from the file's beginning; ascending ones are the quickest.
        tolerance: how far, in seconds, a frame may lie from the time that is asked for.

    Returns:
        uint8 [H, W, 3] each, RGB.

    Raises:
        InputError: the file is missing or damaged, or has no frame near one of the times.
    """
    av = optional("av")
    if not is_file(path):
        raise InputError(f"{path}: the data set names this video, but it is not there; copy the whole folder")
    try:
        # Named, since FFmpeg otherwise searches a damaged file, however large, for any format that it knows.
        with av.open(str(path), format="mp4" if path.suffix == ".mp4" else None) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video stream")
            stream = container.streams.video[0]
            if not stream.time_base:
                raise InputError(f"{path}: its video stream has no unit of time; download it again")
            return [_nearest(path, container, stream, time, tolerance) for time in seconds]
    except InputError:
        raise
    # ValueError and OverflowError: PyAV reads the damaged file's names and times as they are.
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a readable video: {error}; download it again") from error


def _nearest(path: Path, container: Any, stream: Any, time: float, tolerance: float) -> np.ndarray:
    """Seek to the key frame before `time` (FFmpeg finds no other) and decode from there."""
    container.seek(max(round(time / stream.time_base) - 1, 0), stream=stream)
    best, gap, last = None, float("inf"), None
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        last = float(frame.pts * stream.time_base)
        if abs(last - time) < gap:
            best, gap = frame, abs(last - time)
        if last >= time:
            break
    if best is None or gap > tolerance:
        raise InputError(
            f"{path}: no frame within {tolerance:.4f} s of {time:.4f} s "
            f"({'nothing was decoded' if last is None else f'the nearest is {gap:.4f} s away'}); "
            "the file is cut short or belongs to another data set"
        )
    picture: np.ndarray = best.to_ndarray(format="rgb24")
    return picture
