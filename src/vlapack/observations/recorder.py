"""Recording observations: a folder of PNG pictures and one index, for calibration and for comparing policies.

    index.json   {"type": "vlapack.observations", "version": 1, "layout": "libero", "observations": [...]}
    00000_image.png, 00000_wrist_image.png, ...   as the policy gets them: LIBERO's turned by 180°, 256 px

An observation's entry holds the layout's fields by their names, a picture's file or a vector's numbers, and `prompt`
and `source`. The simulator records such folders and so does a policy server; `policy/recorded.py` reads them. Pictures
are kept as they came, so that they serve full-size policies as well as small ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlapack.documents import read_json
from vlapack.errors import InputError
from vlapack.files import write_atomically
from vlapack.robots.fields import PROMPT_KEY, Field

INDEX_FILE = "index.json"
TYPE = "vlapack.observations"
VERSION = 1
SOURCE_KEY = "source"
INDEX_KEYS = ("type", "version", "layout", "seen", "observations")
"""What an index says; `seen` numbers the next picture and decides nothing else."""


class Recorder:
    """Adds observations to a folder; the index is rewritten atomically after each, so a kill loses none.

    With a limit the folder never holds more than that, however long a server runs: the oldest goes when one comes.

    Args:
        folder: a new one, or one that was recorded before: recording goes on.
        layout: the name of the policy's layout.
        fields: what an observation of that layout holds.
        limit: the most observations that the folder may hold; None for no limit.

    Raises:
        InputError: the folder holds something else or another layout's observations, or the limit is below 1.
    """

    def __init__(self, folder: Path, layout: str, fields: Sequence[Field], *, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise InputError(f"a recording of at most {limit} observations: the limit must be 1 or more")
        self.folder = folder
        self._layout = layout
        self._fields = fields
        self._limit = limit
        self._index = folder / INDEX_FILE
        self._rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = {}
        if self._index.exists():
            document = read_json(self._index)
            if document.get("type") != TYPE or not isinstance(document.get("observations"), list):
                raise InputError(
                    f"{self._index} is not an index of observations (type {document.get('type')!r}); give a new folder"
                )
            if document.get("layout") != layout:
                raise InputError(
                    f"{self._index} holds observations of layout {document.get('layout')!r}, and this policy's layout "
                    f"is {layout!r}; give a new folder"
                )
            self._rows = document["observations"]
        elif any(folder.iterdir()):
            raise InputError(f"{folder} is not empty and has no {INDEX_FILE}; give a new folder")
        self._seen = document.get("seen", len(self._rows))
        if not (isinstance(self._seen, int) and self._seen >= len(self._rows)):
            raise InputError(
                f"{self._index}: seen is {self._seen!r}, with {len(self._rows)} observations; give a new folder"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, observation: Mapping[str, Any], **source: Any) -> None:
        """Record one observation.

        Args:
            observation: as `frame.as_recorded` returns it.
            source: where it comes from (suite, init state), kept in the index.
        """
        number = self._seen
        self._seen += 1
        row: dict[str, Any] = {}
        for field in self._fields:
            try:
                value = field.get(observation)
            except KeyError:
                if field.optional:
                    continue
                raise
            if field.width is None:
                row[field.name] = f"{number:05d}_{field.name.replace('/', '_')}.png"
                Image.fromarray(value).save(self.folder / row[field.name], optimize=True)
            else:
                row[field.name] = np.asarray(value, dtype=np.float64).tolist()
        row |= {PROMPT_KEY: str(observation[PROMPT_KEY]), SOURCE_KEY: source}
        dropped = [] if self._limit is None else self._rows[: max(0, len(self._rows) + 1 - self._limit)]
        self._rows = [*self._rows[len(dropped) :], row]
        self._write()  # before the pictures go: an index never names one that is missing
        for old in dropped:
            for field in self._fields:
                if field.width is None and field.name in old:
                    (self.folder / old[field.name]).unlink(missing_ok=True)

    def _write(self) -> None:
        document = {"type": TYPE, "version": VERSION, "layout": self._layout, "seen": self._seen}
        index = (json.dumps({**document, "observations": self._rows}, indent=1) + "\n").encode()
        write_atomically(self._index, index, durable=False)  # a robot waits meanwhile, and its disk may be an SD card
