"""Videos of episodes inside the page, within a budget; and the step from which two of them show different things."""

from __future__ import annotations

import base64
import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from vlapack.documents import is_file, open_regular
from vlapack.errors import InputError
from vlapack.evaluate.clock import CONTROL_HZ
from vlapack.evaluate.ledger import Record
from vlapack.report.reading import EPISODES_FILE
from vlapack.report.runs import Pair, Run

SEEN_WIDTH = 320
"""Pixels to which a video is scaled for a still picture and for comparing."""

BLOCK = 5
"""Pixels a side that are averaged before two videos are compared: what compression does goes, a moved arm stays."""

VISIBLE = 24
"""Gray levels of 255 by which a block differs visibly."""

MOVED = 0.04
"""Two frames show different things where more than this part of their blocks differs visibly. In LIBERO's pictures, two
episodes that stay together differ in up to 2 %, and jump beyond 5 % within a chunk or two when they part."""

# Nothing but an MP4 file is read, whatever the file says: other formats may name further files.
ONLY_MP4 = ["-f", "mov", "-protocol_whitelist", "file"]


@dataclass(frozen=True)
class Clip:
    """One episode's video: inside the page, or a link to the file.

    Attributes:
        data: base64; None where the budget was used up.
        link: relative to the page; None where the video is inside.
        still: base64 JPEG of the step at which a pair parts, else of the first; None where nothing could be decoded.
        served: whether the link leads to a server, so that the page can play it.
    """

    data: str | None
    link: str | None
    still: str | None = None
    served: bool = False

    @property
    def playable(self) -> bool:
        """Whether the page can play it."""
        return self.served or self.data is not None


@dataclass(frozen=True)
class Watched:
    """A pair with its videos.

    Attributes:
        parts: the first step at which the two videos show different things; None: never, or it is not known.
        compared: whether anybody looked for that step.
    """

    pair: Pair
    floating: Clip | None
    packed: Clip | None
    parts: int | None = None
    compared: bool = True


class Budget:
    """Bytes of video that may still go into the page.

    Args:
        nbytes: of the page; base64 takes four for every three of a file.
        page: where the page will be; links are relative to its folder.
    """

    def __init__(self, nbytes: int, page: Path) -> None:
        """Begin with all of it."""
        self.left = nbytes
        self.page = page
        self.embedded = self.linked = self.missing = 0

    def watch(self, run: Run, pair: Pair) -> Watched:
        """Take a pair's videos in if both fit; otherwise link to them.

        Raises:
            InputError: a record names a file outside of the run.
        """
        paths = [self._video(run, record) for record in (pair.floating, pair.packed)]
        sizes = [path.stat().st_size for path in paths if path is not None]
        needed = sum(-(-size // 3) * 4 for size in sizes)
        if needed > self.left:
            self.linked += len(sizes)
            floating, packed = (None if path is None else Clip(None, self._link(path)) for path in paths)
            return Watched(pair, floating, packed, compared=False)
        self.left -= needed
        self.embedded += len(sizes)
        seen = [None if path is None else _seen(path) for path in paths]
        first = step = None
        if seen[0] is not None and seen[1] is not None:
            first = parting(_gray(seen[0][0]), _gray(seen[1][0]))
            step = None if first is None else round(first * CONTROL_HZ / seen[0][1])
        floating, packed = (
            None if path is None else Clip(_base64(path), None, found and _still(found[0], first or 0))
            for path, found in zip(paths, seen, strict=True)
        )
        return Watched(pair, floating, packed, step)

    def _video(self, run: Run, record: Record | None) -> Path | None:
        """Return the file of an episode; None where there is none, or not any more."""
        if record is None or record.video is None:
            return None
        # A page is passed on: it must not carry a file that no run has written.
        if (path := inside(run.folder, record.video)) is None:
            raise InputError(
                f"{run.folder / EPISODES_FILE} names the video {record.video!r:.200}, which is no .mp4 file below that "
                "folder; `vlapack eval` did not write this run, or it was changed since"
            )
        if not is_file(path):
            self.missing += 1
            return None
        return path

    def _link(self, path: Path) -> str:
        link = os.path.relpath(path.resolve(), self.page.resolve().parent)
        return f"./{quote(link.replace(os.sep, '/'), errors='surrogateescape')}"


def inside(folder: Path, name: str) -> Path | None:
    """Return the path of a run's video, wherever links lead; None where it is no .mp4 file below the run's folder."""
    path = folder / name
    try:
        below = folder.resolve() in path.resolve().parents
    except (OSError, RuntimeError, ValueError):  # a circle of links, or a name that no file can have
        return None
    return path if below and path.suffix == ".mp4" else None


def parting(ours: np.ndarray, theirs: np.ndarray) -> int | None:
    """Return the first frame in which two videos [frames, height, width] of gray levels differ visibly.

    A video that ends earlier parts from the other one where it ends. None: they show the same.
    """
    shared = min(len(ours), len(theirs))
    apart = np.abs(ours[:shared].astype(np.float32) - theirs[:shared]) > VISIBLE
    different = apart.mean(axis=(1, 2)) > MOVED
    if different.any():
        return int(different.argmax())
    return shared if len(ours) != len(theirs) else None


def _base64(path: Path) -> str:
    with open_regular(path) as file:
        return base64.b64encode(file.read()).decode()


def _seen(path: Path) -> tuple[np.ndarray, float] | None:
    """Decode a video, scaled: uint8 [frames, height, width, 3], and its frames per second; None where it cannot be."""
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        return None
    logging.getLogger(imageio_ffmpeg.__name__).setLevel(logging.ERROR)  # it warns of every scaled video
    scaled = ["-vf", f"scale={SEEN_WIDTH}:-2:flags=area"]
    reader: Any = imageio_ffmpeg.read_frames(str(path.resolve()), input_params=ONLY_MP4, output_params=scaled)
    try:
        about = next(reader)
        frames = list(reader)
    except (OSError, RuntimeError, StopIteration):  # no video, or a part of one
        return None
    finally:
        reader.close()
    if not frames or not about["fps"]:
        return None
    width, height = about["size"]
    return np.frombuffer(b"".join(frames), np.uint8).reshape(-1, height, width, 3), float(about["fps"])


def _gray(frames: np.ndarray) -> np.ndarray:
    """Average blocks of a video [frames, height, width, 3] to gray levels."""
    count, height, width, _ = frames.shape
    rows, columns = height // BLOCK, width // BLOCK
    blocks = frames[:, : rows * BLOCK, : columns * BLOCK].reshape(count, rows, BLOCK, columns, BLOCK, 3)
    gray: np.ndarray = blocks.mean(axis=(2, 4, 5))
    return gray


def _still(frames: np.ndarray, number: int) -> str:
    out = io.BytesIO()
    Image.fromarray(frames[min(number, len(frames) - 1)]).save(out, "JPEG", quality=72)
    return base64.b64encode(out.getvalue()).decode()
