"""Recorded observations: a folder of PNG pictures and one index, for calibration and for comparing policies.

    index.json   {"type": "vlapack.observations", "version": 1, "layout": "libero", "observations": [...]}
    00000_image.png, 00000_wrist_image.png, ...   256 px, turned as the policy gets them

Pictures are kept at 256 px, so that they serve full-size policies as well as small ones. `policy/observations.py`
reads such a folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlapack.errors import InputError
from vlapack.libero.env import Observation

PICTURES = ("image", "wrist_image")


class Recorder:
    """Adds observations to a folder; the index is rewritten atomically after each, so a kill loses none.

    Raises:
        InputError: the folder holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = folder / "index.json"
        self._rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        if self._index.exists():
            document = json.loads(self._index.read_text())
            if document.get("type") != "vlapack.observations":
                raise InputError(f"{self._index} is no index of observations (type {document.get('type')!r})")
            self._rows = document["observations"]
        elif any(folder.iterdir()):
            raise InputError(f"{folder} is not empty and has no index.json; give a new folder")

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, observation: Observation, **source: Any) -> None:
        """Record one observation in openpi's LIBERO keys; `source` says where it comes from (suite, init state)."""
        row: dict[str, Any] = {}
        for key in PICTURES:
            row[key] = f"{len(self._rows):05d}_{key}.png"
            Image.fromarray(observation[f"observation/{key}"]).save(self.folder / row[key], optimize=True)
        row["state"] = np.asarray(observation["observation/state"], dtype=np.float64).tolist()
        row["prompt"] = str(observation["prompt"])
        row["source"] = source
        self._rows.append(row)
        document = {"type": "vlapack.observations", "version": 1, "layout": "libero", "observations": self._rows}
        part = self._index.with_suffix(".part")
        part.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(part, self._index)
