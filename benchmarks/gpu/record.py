"""The JSON of one card: what was measured where, kept cell by cell, and checked whenever it is written or read."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gpu.card import Card
from vlapack.errors import InputError
from vlapack.machine.cpu import describe_machine

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
TYPE, VERSION = "vlapack.bench-gpu", 1
IDENTITY = ("dry", "card", "torch", "triton", "commit", "source")
"""What must be the same for a cell to be kept."""
DONE = ("right", "measured")
TEXT, NUMBER = (str,), (int, float)
HEAD: Mapping[str, tuple[type, ...]] = {
    "type": TEXT,
    "version": (int,),
    "dry": (bool,),
    "card": (dict,),
    "machine": (dict,),
    "torch": TEXT,
    "triton": TEXT,
    "cuda": TEXT,
    "python": TEXT,
    "date": TEXT,
    "commit": TEXT,
    "source": TEXT,
    "ceilings": (dict, type(None)),
    "cells": (list,),
}
CEILINGS = {"bytes_per_s": NUMBER, "int8_ops_per_s": NUMBER, "bf16_ops_per_s": NUMBER, "state": (dict,)}
TIMES = {"p50": NUMBER, "p95": NUMBER, "min": NUMBER}
CELL: Mapping[tuple[str, str], Mapping[str, tuple[type, ...]]] = {
    ("correct", "right"): {},
    ("correct", "wrong"): {"reason": TEXT},
    ("correct", "failed"): {"reason": TEXT},
    ("correct", "not measured"): {"reason": TEXT},
    ("product", "not measured"): {"reason": TEXT},
    ("product", "failed"): {"reason": TEXT},
    ("chunk", "not measured"): {"reason": TEXT},
    ("chunk", "failed"): {"reason": TEXT},
    ("product", "measured"): {"sizes": (dict,), "contenders": (dict,), "floor_ms": (dict,)},
    ("chunk", "measured"): {"how": TEXT, "warm_up": (int,), "samples": (int,), "wall": (dict,), "memory": (dict,)},
}
"""Kind and status → what such a cell has besides its name."""
MEMORY = {"held": NUMBER, "loading_peak": NUMBER, "running_peak": NUMBER, "context": NUMBER}


def head(card: Card) -> dict[str, Any]:
    """Return what a document begins with, without a cell."""
    return {
        "type": TYPE,
        "version": VERSION,
        "dry": card.dry,
        "card": card.describe(),
        "machine": describe_machine(),
        "torch": torch.__version__,
        "triton": _triton(),
        "cuda": str(torch.version.cuda or torch.version.hip),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": _commit(),
        "source": source_key(),
        "ceilings": None,
        "cells": [],
    }


class Record:
    """A document in its file; cells of an earlier run of the same code on the same card are kept."""

    def __init__(self, file: Path, beginning: dict[str, Any], *, again: bool = False) -> None:
        """Take up a file, or begin one.

        Args:
            file: the JSON.
            beginning: what `head` returned.
            again: keep nothing.

        Raises:
            InputError: the file is there and is none of ours.
        """
        self.file = file
        self.document = beginning
        if file.exists() and not again:
            found = read(file)
            if all(found[key] == beginning[key] for key in IDENTITY):
                self.document = {**beginning, "ceilings": found["ceilings"], "cells": found["cells"]}

    def kept(self, kind: str, name: str) -> bool:
        """Whether a cell is there and needs no other run."""
        return any(cell["status"] in DONE for cell in self._like(kind, name))

    def put(self, kind: str, name: str, cell: Mapping[str, Any]) -> None:
        """Add a cell in the place of one of the same name, and write the file."""
        old = self._like(kind, name)
        cells = [other for other in self.document["cells"] if other not in old]
        self.document["cells"] = [*cells, {"kind": kind, "name": name, **cell}]
        self.write()

    def write(self) -> None:
        """Write the file whole: a kill leaves the one before."""
        if wrong := problems(self.document):
            raise AssertionError(f"this benchmark wrote what it does not read: {wrong}")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(f"{self.file.name}.partial")
        partial.write_text(text_of(self.document), encoding="utf-8")
        os.replace(partial, self.file)

    def _like(self, kind: str, name: str) -> list[dict[str, Any]]:
        return [cell for cell in self.document["cells"] if (cell["kind"], cell["name"]) == (kind, name)]


def text_of(document: Mapping[str, Any]) -> str:
    """Return a document as JSON, a cell a line."""
    cells = ",\n".join(f"  {json.dumps(cell, allow_nan=False)}" for cell in document["cells"])
    rest = {key: value for key, value in document.items() if key != "cells"}
    beginning = json.dumps(rest, indent=1, allow_nan=False).removesuffix("\n}")
    return f'{beginning},\n "cells": [\n{cells}\n ]\n}}\n'


def read(file: Path) -> dict[str, Any]:
    """Return a document.

    Raises:
        InputError: it is none, or damaged; the message names the first place.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: no JSON ({error}); move it away, or give another `json`") from error
    if wrong := problems(document):
        raise InputError(f"{file}: {wrong[0]}; it is no result of `make bench-gpu`, or an older one: measure again")
    return dict(document)


def problems(document: Any) -> list[str]:
    """Return what is missing or of the wrong kind, by name."""
    if not isinstance(document, dict) or document.get("type") != TYPE or document.get("version") != VERSION:
        return [f"it must be an object of type {TYPE!r}, version {VERSION}"]
    found = _misfits(document, HEAD, "")
    if isinstance(document.get("ceilings"), dict):
        found += _misfits(document["ceilings"], CEILINGS, "ceilings.")
    for number, cell in enumerate(document.get("cells") or []):
        place = f"cells[{number}]."
        if not isinstance(cell, dict) or not isinstance(cell.get("name"), str):
            found.append(f"{place}name must be a text")
            continue
        wanted = CELL.get((cell.get("kind", ""), cell.get("status", "")))
        if wanted is None:
            found.append(f"{place}kind {cell.get('kind')!r} has no status {cell.get('status')!r}")
            continue
        found += _misfits(cell, wanted, place)
        if wanted and not found and cell["status"] == "measured":
            found += _misfits_of_measured(cell, place)
    return found


def _misfits_of_measured(cell: Mapping[str, Any], place: str) -> list[str]:
    if cell["kind"] == "chunk":
        found = _misfits(cell["memory"], MEMORY, f"{place}memory.")
        return found + [
            line
            for kind in ("wall", "replay")
            if kind in cell
            for line in _misfits(cell[kind], TIMES, f"{place}{kind}.")
        ]
    return [
        line
        for name, times in cell["contenders"].items()
        for kind in ("warm", "cold")
        for line in _misfits(times.get(kind, {}), TIMES, f"{place}contenders.{name}.{kind}.")
    ]


def _misfits(document: Mapping[str, Any], wanted: Mapping[str, tuple[type, ...]], place: str) -> list[str]:
    return [
        f"{place}{key} must be {' or '.join(kind.__name__ for kind in kinds)}, not {document.get(key)!r:.60}"
        for key, kinds in wanted.items()
        if key not in document or not isinstance(document[key], kinds)
    ]


def file_for(card: Mapping[str, Any]) -> Path:
    """Return where a card's results belong: its name without the maker's."""
    name = re.sub(r"^(nvidia|amd)( geforce)?\s+", "", card["name"].lower())
    return RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}.json"


def source_key() -> str:
    """Return a hash of the code that measures and is measured; a commit does not tell what was changed since."""
    digest = hashlib.sha256()
    for folder in (ROOT / "src" / "vlapack", Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _commit() -> str:
    try:
        told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):  # a copy of the sources alone
        return "unknown"
    return told.stdout.strip()


def _triton() -> str:
    try:
        import triton
    except ImportError:
        return "none"
    return str(triton.__version__)
