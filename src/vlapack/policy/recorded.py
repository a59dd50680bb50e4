"""A folder that `recording.Recorder` wrote, in the simulator or in a policy server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlapack.checkpoints.base import read_json
from vlapack.errors import InputError
from vlapack.policy.frame import Frame, canonical
from vlapack.recording import INDEX_FILE, LAYOUT, PICTURES, TYPE, VERSION


class RecordedFolder:
    """Recorded observations, in the order of their index.

    Args:
        folder: a folder with an `index.json`.

    Raises:
        InputError: an index of another type or version, or of nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = folder / INDEX_FILE
        index = read_json(self._index)
        for key, expected in (("type", TYPE), ("version", VERSION), ("layout", LAYOUT)):
            if index.get(key) != expected:
                raise InputError(f"{self._index}: {key} is {index.get(key)!r}; this version reads {expected!r}")
        entries = index.get("observations")
        if not (isinstance(entries, list) and entries):
            raise InputError(f"{self._index}: lists no observations")
        self._entries = entries

    @property
    def description(self) -> str:
        """What it is and how much it holds."""
        return f"recorded observations, {len(self)}"

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, count: int) -> list[Frame]:
        """Read `count` observations, evenly from the whole index, so that every task in it has its share.

        Raises:
            InputError: an observation that lacks something, or a picture that is missing or damaged.
        """
        return [self._frame(index * len(self) // count) for index in range(count)]

    def _frame(self, number: int) -> Frame:
        entry, where = self._entries[number], f"{self._index}: observation {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{where} is {entry!r}; it must be an object")
        if missing := [key for key in (*PICTURES, "state", "prompt") if key not in entry]:
            raise InputError(f"{where} has no {', '.join(missing)}")
        raw: dict[str, Any] = {f"observation/{key}": _picture(self.folder / str(entry[key])) for key in PICTURES}
        raw |= {"observation/state": entry["state"], "prompt": entry["prompt"]}
        return Frame(name=str(entry["image"]), observation=canonical(raw, where), source=entry.get("source") or {})


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: the index names it, but it is not there; copy the whole folder") from error
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: not a readable picture: {error}") from error
