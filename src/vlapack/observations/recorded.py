"""A folder that `recording.Recorder` wrote, in the simulator or in a policy server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.documents import is_file, read_json
from vlapack.errors import InputError
from vlapack.observations.frame import Frame, as_recorded
from vlapack.observations.pictures import read_rgb
from vlapack.observations.recorder import INDEX_FILE, INDEX_KEYS, SOURCE_KEY, TYPE, VERSION
from vlapack.robots.fields import PROMPT_KEY
from vlapack.robots.layouts import LAYOUTS, Layout, layout_of


class RecordedFolder:
    """Recorded observations, in the order of their index.

    Args:
        folder: a folder with an `index.json`.
        config: the policy that they are for; None: any policy of the layout that the index names.

    Raises:
        InputError: an index of another type, version or layout, or of nothing.
    """

    def __init__(self, folder: Path, config: PolicyConfig | None = None) -> None:
        self.folder = folder
        self._index = folder / INDEX_FILE
        index = read_json(self._index)
        for key, expected in (("type", TYPE), ("version", VERSION)):
            if index.get(key) != expected:
                raise InputError(f"{self._index}: {key} is {index.get(key)!r}; this version reads {expected!r}")
        if foreign := sorted(set(index) - set(INDEX_KEYS)):
            raise InputError(f"{self._index} has {', '.join(foreign)}; this version knows {', '.join(INDEX_KEYS)}")
        named = index.get("layout")
        known: Mapping[Any, Layout] = LAYOUTS if config is None else {config.layout: layout_of(config)}
        if not (isinstance(named, str) and named in known):
            raise InputError(
                f"{self._index}: observations of layout {named!r}; expected is {' or '.join(map(repr, known))}: record "
                "this policy's own with `vlapack serve POLICY --record`"
            )
        self._layout = known[named]
        entries = index.get("observations")
        if not (isinstance(entries, list) and entries):
            raise InputError(f"{self._index}: lists no observations; record some with `vlapack serve POLICY --record`")
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
        fields = {field.name: field for field in self._layout.fields}
        needed = [name for name, field in fields.items() if not field.optional]
        if missing := [key for key in (*needed, PROMPT_KEY) if key not in entry]:
            raise InputError(f"{where} has no {', '.join(missing)}; record it again")
        if foreign := sorted(set(entry) - {*fields, PROMPT_KEY, SOURCE_KEY}):
            raise InputError(f"{where} has {', '.join(foreign)}; this policy knows {', '.join(fields)}")
        raw: dict[str, Any] = {PROMPT_KEY: entry[PROMPT_KEY]}
        for name in (name for name in fields if name in entry):
            value = _picture(self.folder, entry[name], where) if fields[name].width is None else entry[name]
            fields[name].put(raw, value)
        observation = as_recorded(raw, self._layout, where)
        title = next(str(entry[name]) for name, field in fields.items() if field.width is None and name in entry)
        source = entry.get(SOURCE_KEY) or {}
        if not isinstance(source, dict):
            raise InputError(f"{where} has the source {source!r}; it must be an object")
        return Frame(title, observation, source)


def _picture(folder: Path, name: Any, where: str) -> np.ndarray:
    """Read a picture that the index names; it lies in the folder itself."""
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError(f"{where} names the picture {name!r}; it must be the name of a file in {folder}")
    if not is_file(folder / name):
        raise InputError(f"{folder / name!s:.400}: the index names it, but it is not there; copy the whole folder")
    return read_rgb(folder / name, str(folder / name))
