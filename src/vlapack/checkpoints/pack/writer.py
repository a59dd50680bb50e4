"""Write a pack piece by piece, so that a kill at any moment costs one piece and the end is the same bytes.

The work lies in `PACK.partial/` until it is whole:

    plan.json       what this work is: the fingerprint, and the versions that compute it
    journal.jsonl   one line per finished piece: its tensors' checksums, and a note (the piece's rounding error)
    ...             what balancing keeps (balance.py): the pack without it, and what was measured
    pack/           becomes PACK by one rename

Nothing in the journal is believed: a resumed run hashes each finished piece again, and makes again what differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from vlapack.checkpoints.assets import CONFIG_FILE, WEIGHTS_FILE
from vlapack.checkpoints.pack.card import CARD_FILE
from vlapack.checkpoints.pack.config import seal
from vlapack.checkpoints.tensorlayout import TensorSpec, digest_of, encode_header, place
from vlapack.errors import InputError
from vlapack.files import full_disk_explained, is_locked, raw_bytes, try_lock, write_all, write_atomically
from vlapack.fingerprint import differences

PLAN_FILE = "plan.json"
SPARE_BYTES = 8 * 2**20  # the small files beside the weights


def partial_path(out: Path) -> Path:
    """Where the unfinished work of the pack `out` lies."""
    return out.with_name(out.name + ".partial")


class PackWriter:
    """The unfinished pack `out`, begun or taken up again; a context manager that keeps others away.

    Args:
        out: the folder that shall appear; it must not exist, or be empty.
        plan: what decides the bytes (JSON). Unfinished work of another plan is refused, never mixed.
        specs: every tensor of the pack.
        beside: bytes that other work in `PACK.partial/` takes, until that is removed.

    Raises:
        InputError: unfinished work of another plan, another process at work, or too little free disk.
    """

    def __init__(self, out: Path, plan: Mapping[str, Any], specs: Iterable[TensorSpec], *, beside: int = 0) -> None:
        """Claim `PACK.partial/` and find out what an earlier run finished."""
        self.out = out
        self.partial = partial_path(out)
        self._placed = place(specs)
        self._blank = encode_header(self._placed, {})
        self._done: dict[str, dict[str, Any]] = {}
        self._sums: dict[str, str] = {}

        self._pack = self.partial / "pack"
        self._check_free_disk(beside)
        with self._disk():
            self._pack.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refused must not be tried again when the file is closed.
            weights = self._pack / WEIGHTS_FILE
            self._file = weights.open("r+b" if weights.exists() else "w+b", buffering=0)
        with ExitStack() as on_failure:
            on_failure.callback(self._file.close)
            if not try_lock(self._file):
                raise InputError(f"another process is writing {self.partial}; wait for it, or choose another `out`")
            self._claim(dict(plan))
            with self._disk():
                self._file.truncate(self._end)
                self._journal = self._resume()
            on_failure.pop_all()

    def __enter__(self) -> PackWriter:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go; what is finished stays in `PACK.partial/` unless `finish` has moved it.

        An `InputError` would only come again, since the same plan meets the same input: then nothing stays.
        """
        self._journal.close()
        self._file.close()
        if isinstance(error, InputError):
            shutil.rmtree(self.partial)

    def note(self, piece: str) -> dict[str, Any] | None:
        """Return what was noted with a finished piece, None where it is still to be made."""
        return self._done.get(piece)

    def write(self, piece: str, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
        """Write the tensors of one piece of work, then say in the journal that it is finished."""
        sums = {}
        with self._disk():
            for name, tensor in tensors.items():
                spec, offset = self._placed[name]
                assert (tensor.dtype, tuple(tensor.shape)) == (spec.dtype, spec.shape), spec
                values = raw_bytes(tensor)
                self._file.seek(len(self._blank) + offset)
                write_all(self._file, values)
                sums[name] = hashlib.sha256(values).hexdigest()
            line = json.dumps({"piece": piece, "sha256": sums, "note": dict(note)}) + "\n"
            write_all(self._journal, line.encode())
        self._sums |= sums
        self._done[piece] = dict(note)

    def finish(self, config: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Fill in the checksums, add `config.json` and the small `files`, and let the pack appear by one rename."""
        missing = self._placed.keys() - self._sums.keys()
        assert not missing, f"never written: {sorted(missing)[:5]}"
        header = encode_header(self._placed, self._sums)
        with self._disk():
            self._file.seek(0)
            write_all(self._file, header)
            os.fsync(self._file.fileno())
            for name, content in files.items():
                (self._pack / name).write_bytes(content)
            sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != CARD_FILE}
            sums[WEIGHTS_FILE] = hashlib.sha256(header[8:]).hexdigest()
            (self._pack / CONFIG_FILE).write_bytes(seal({**config, "files": sums}))
            os.replace(self._pack, self.out)
        shutil.rmtree(self.partial)

    @property
    def _end(self) -> int:
        return len(self._blank) + sum(spec.nbytes for spec, _ in self._placed.values())

    def _claim(self, plan: dict[str, Any]) -> None:
        path = self.partial / PLAN_FILE
        if path.exists():
            found = json.loads(path.read_text())
            if rows := differences(found, plan):
                raise InputError(
                    f"{self.partial} holds unfinished work of another run ({'; '.join(rows)}); finish it as it began, "
                    f"remove it with `vlapack clean {self.partial} --yes`, or choose another `out`"
                )
            return
        with self._disk():
            write_atomically(path, json.dumps(plan, indent=1).encode())

    def _check_free_disk(self, beside: int) -> None:
        held = sum(path.stat().st_blocks * 512 for path in self.partial.rglob("*.safetensors"))
        need = self._end + beside - held + SPARE_BYTES
        disk = next(folder for folder in self.partial.absolute().parents if folder.exists())
        free = shutil.disk_usage(disk).free
        if free < need:
            raise InputError(
                f"{self.out} needs {need / 1e9:.3f} GB more and its disk has {free / 1e9:.3f} GB free; "
                "free some, or choose an `out` on another disk"
            )

    def _resume(self) -> FileIO:
        """Believe the journal's lines as far as they can be read and their tensors are whole; cut off the rest."""
        path = self.partial / "journal.jsonl"
        content = path.read_bytes() if path.exists() else b""
        believed = b""
        for line in content.split(b"\n")[:-1]:  # what follows the last newline was being written when the kill came
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if all(self._intact(name, digest) for name, digest in entry["sha256"].items()):
                believed += line + b"\n"
                self._sums |= entry["sha256"]
                self._done[entry["piece"]] = entry["note"]
        if believed != content:
            write_atomically(path, believed)
        return path.open("ab", buffering=0)

    def _intact(self, name: str, digest: str) -> bool:
        spec, offset = self._placed[name]
        self._file.seek(len(self._blank) + offset)
        return digest_of(self._file, spec.nbytes) == digest

    def _disk(self) -> AbstractContextManager[None]:
        return full_disk_explained(self.out, self.partial)


def sweep(out: Path) -> None:
    """Remove the work folder of a pack that is finished, where a kill came between the rename and its removal."""
    partial = partial_path(out)
    if partial.exists() and not (partial / "pack").exists():
        shutil.rmtree(partial)


def leftovers(folder: Path) -> list[Path]:
    """Return the unfinished packs in and below `folder`, itself included; nothing else that ends in `.partial`."""
    found = sorted({folder, *folder.rglob("*.partial")})
    ours = [path for path in found if path.suffix == ".partial" and (path / PLAN_FILE).is_file()]
    return [path for path in ours if not any(parent in ours for parent in path.parents)]


def in_use(partial: Path) -> bool:
    """Whether a process is at work in this folder: a pack's holds the weights, a tuning's the plan."""
    return any(is_locked(path) for path in (partial / "pack" / WEIGHTS_FILE, partial / PLAN_FILE) if path.exists())
