"""Recording observations: a folder of PNG pictures and one index, for calibration and for comparing policies.

    index.json   {"type": "vlapack.observations", "version": 1, "layout": "libero", "observations": [...]}
    00000_image.png, 00000_wrist_image.png, ...   as the policy gets them: LIBERO's turned by 180°, 256 px

The simulator records such folders and so does a policy server; `policy/recorded.py` reads them. Pictures are kept as
they came, so that they serve full-size policies as well as small ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlapack.errors import InputError

INDEX_FILE = "index.json"
TYPE = "vlapack.observations"
VERSION = 1
LAYOUT = "libero"
PICTURES = ("image", "wrist_image")


class Recorder:
    """Adds observations to a folder; the index is rewritten atomically after each, so a kill loses none.

    With a limit the folder never holds more than that, however long a server runs: the oldest goes when one comes.

    Args:
        folder: a new one, or one that was recorded before: recording goes on.
        limit: the most observations that the folder may hold; None for no limit.

    Raises:
        InputError: the folder holds something else, or the limit is below 1.
    """

    def __init__(self, folder: Path, *, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise InputError(f"a recording of at most {limit} observations: the limit must be 1 or more")
        self.folder = folder
        self._limit = limit
        self._index = folder / INDEX_FILE
        self._rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = {}
        if self._index.exists():
            document = json.loads(self._index.read_text())
            if document.get("type") != TYPE:
                raise InputError(f"{self._index} is no index of observations (type {document.get('type')!r})")
            self._rows = document["observations"]
        elif any(folder.iterdir()):
            raise InputError(f"{folder} is not empty and has no {INDEX_FILE}; give a new folder")
        self._seen = document.get("seen", len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, observation: Mapping[str, Any], **source: Any) -> None:
        """Record one observation.

        Args:
            observation: openpi's LIBERO keys; pictures uint8 [H, W, 3].
            source: where it comes from (suite, init state), kept in the index.
        """
        number = self._seen
        self._seen += 1
        row: dict[str, Any] = {}
        for key in PICTURES:
            row[key] = f"{number:05d}_{key}.png"
            Image.fromarray(observation[f"observation/{key}"]).save(self.folder / row[key], optimize=True)
        row["state"] = np.asarray(observation["observation/state"], dtype=np.float64).tolist()
        row["prompt"] = str(observation["prompt"])
        row["source"] = source
        dropped = [] if self._limit is None else self._rows[: max(0, len(self._rows) + 1 - self._limit)]
        self._rows = [*self._rows[len(dropped) :], row]
        self._write()  # before the pictures go: an index never names one that is missing
        for old in dropped:
            for key in PICTURES:
                (self.folder / old[key]).unlink(missing_ok=True)

    def _write(self) -> None:
        document = {"type": TYPE, "version": VERSION, "layout": LAYOUT, "seen": self._seen}
        part = self._index.with_suffix(".part")
        part.write_text(json.dumps({**document, "observations": self._rows}, indent=1) + "\n")
        os.replace(part, self._index)
