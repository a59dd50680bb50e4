"""Recorded observations: a folder of pictures with an `index.json`, from which policies are calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlapack.checkpoints.base import read_json
from vlapack.errors import InputError

INDEX_FILE = "index.json"
TYPE = "vlapack.observations"
VERSION = 1


def load_observations(folder: Path) -> list[dict[str, Any]]:
    """Read every observation of a folder, in openpi's LIBERO keys, in the index's order.

    Returns:
        Dictionaries of `observation/image` and `observation/wrist_image` (uint8 [H, W, 3], rotated as the policy sees
        them), `observation/state` (float64 [8]) and `prompt`.

    Raises:
        InputError: no such folder, an index of another type or version, or a picture that is missing or damaged.
    """
    if not (folder / INDEX_FILE).is_file():
        raise InputError(f"{folder}: no {INDEX_FILE}; recorded observations are a folder with one")
    index = read_json(folder / INDEX_FILE)
    for key, expected in (("type", TYPE), ("version", VERSION), ("layout", "libero")):
        if index.get(key) != expected:
            raise InputError(f"{folder / INDEX_FILE}: {key} is {index.get(key)!r}; this version reads {expected!r}")
    if not (entries := index.get("observations")):
        raise InputError(f"{folder / INDEX_FILE}: lists no observations")
    return [_load(folder, entry, number) for number, entry in enumerate(entries)]


def _load(folder: Path, entry: dict[str, Any], number: int) -> dict[str, Any]:
    if missing := [key for key in ("image", "wrist_image", "state", "prompt") if key not in entry]:
        raise InputError(f"{folder / INDEX_FILE}: observation {number} has no {', '.join(missing)}")
    return {
        "observation/image": _picture(folder / entry["image"]),
        "observation/wrist_image": _picture(folder / entry["wrist_image"]),
        "observation/state": np.asarray(entry["state"], dtype=np.float64),
        "prompt": entry["prompt"],
    }


def _picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: the index names it, but it is not there; copy the whole folder") from error
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: not a readable picture: {error}") from error
