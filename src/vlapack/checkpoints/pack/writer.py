"""Write a pack piece by piece, so that a kill at any moment costs one piece and the end is the same bytes.

The work lies in `PACK.partial/` until it is whole:

    vlapack.lock    locked by the process that works here (files.claimed)
    plan.json       what this work is: the fingerprint, and what computes it
    journal.jsonl   one line per finished piece: its tensors' checksums, and a note (the piece's rounding error)
    ...             what balancing keeps (balance.py): the pack without it, and what was measured
    pack/           becomes PACK by one rename, once all of it is on the disk

Nothing in the journal is believed: a resumed run hashes each finished piece again, and makes again what differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from vlapack.checkpoints.assets import CONFIG_FILE, WEIGHTS_FILE
from vlapack.checkpoints.pack.card import CARD_FILE
from vlapack.checkpoints.pack.config import seal
from vlapack.checkpoints.tensorlayout import TensorSpec, digest_of, encode_header, place
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.files import (
    LOCK_FILE,
    claimed,
    full_disk_explained,
    raw_bytes,
    remove_claimed,
    require_writable,
    sweep,
    sync,
    sync_tree,
    write_all,
    write_atomically,
)
from vlapack.fingerprint import taken_up

PLAN_FILE = "plan.json"
SPARE_BYTES = 8 * 2**20  # the small files beside the weights


def partial_path(out: Path) -> Path:
    """Where the unfinished work of the pack `out` lies."""
    return out.with_name(out.name + ".partial")


def sweep_partial(out: Path) -> None:
    """Remove the work folder of a pack that is finished, where a kill came between the rename and its removal."""
    sweep(partial_path(out), unless="pack")


def settled(out: Path) -> Path:
    """Return the folder that a pack for `out` is renamed to, after trying what can be tried before any work.

    A link is followed, since a rename would replace the link itself. A folder that holds something is left to the
    caller: it is not going to be written.

    Raises:
        InputError: it is a mount point, which no folder can be renamed to, or the folder that the process is in, or
            cannot be written.
    """
    try:
        linked = out.is_symlink()
        real = out.resolve() if linked or out.name in ("", "..") else out
        partial_path(real).exists()  # raises where the name is too long
        empty = not real.exists() or (real.is_dir() and not any(real.iterdir()))
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{out} cannot be written: {reason}; choose another `out`") from error
    if not empty:
        return real
    if os.path.ismount(real):
        raise InputError(f"{out} is a mount point, and a finished pack is renamed: choose a folder in it, {out}/pack")
    if Path.cwd() == real.resolve():
        raise InputError(f"{out} is the folder you are in, and would be replaced: choose a new one in it, ./pack")
    require_writable(real.parent)
    if linked:
        say(f"{out} is a link; the pack goes to {real}")
    return real


class PackWriter:
    """The unfinished pack `out`, begun or taken up again; a context manager that keeps others away.

    Args:
        out: the folder that shall appear; it must not exist, or be empty.
        plan: what decides the bytes (JSON). Unfinished work of another plan is refused, never mixed; see
            `fingerprint.taken_up` for the one thing that is taken from the unfinished work instead.
        specs: every tensor of the pack.
        beside: bytes that other work in `PACK.partial/` takes, until that is removed.

    Raises:
        InputError: unfinished work of another plan, another process at work, or too little free disk.

    Attributes:
        plan: the plan of this work, as it was begun.
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
        with ExitStack() as held:
            with self._disk():
                held.enter_context(claimed(self.partial))
            self.plan = self._agreed(dict(plan))
            with self._disk():
                self._pack.mkdir(exist_ok=True)
                weights = self._pack / WEIGHTS_FILE
                weights.touch()
                # Unbuffered: what a full disk refused must not be tried again when the file is closed.
                self._file = held.enter_context(weights.open("r+b", buffering=0))
                self._file.truncate(self._end)
                self._journal = self._resume()
                held.callback(self._journal.close)
            self._held = held.pop_all()

    def __enter__(self) -> PackWriter:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go; what is finished stays in `PACK.partial/` unless `finish` has moved it.

        An `InputError` would only come again, since the same plan meets the same input: then nothing stays.
        """
        if isinstance(error, InputError):
            self.discard()
        self._held.close()

    def discard(self) -> None:
        """Remove the work."""
        remove_claimed(self.partial)

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
            for name, content in files.items():
                (self._pack / name).write_bytes(content)
            sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != CARD_FILE}
            sums[WEIGHTS_FILE] = hashlib.sha256(header[8:]).hexdigest()
            (self._pack / CONFIG_FILE).write_bytes(seal({**config, "files": sums}))
            sync_tree(self._pack)  # before the journal goes, by which a lost byte would be noticed
            os.replace(self._pack, self.out)
            sync(self.out.parent)
        self.discard()

    @property
    def _end(self) -> int:
        return len(self._blank) + sum(spec.nbytes for spec, _ in self._placed.values())

    def _agreed(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Return the plan of the work that is here, which this one takes up; its own where nothing is."""
        path = self.partial / PLAN_FILE
        if path.exists():
            begun, rows = taken_up(json.loads(path.read_text()), plan)
            if rows:
                raise InputError(
                    f"{self.partial} holds unfinished work of another run ({'; '.join(rows)}); finish it "
                    f"with its own command, remove it with `vlapack clean {self.partial} --yes`, or choose another "
                    "`out`"
                )
            return begun
        with self._disk():
            write_atomically(path, json.dumps(plan, indent=1).encode())
        return plan

    def _check_free_disk(self, beside: int) -> None:
        held = 0
        with suppress(FileNotFoundError):  # another process finishes
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


def leftovers(folder: Path) -> list[Path]:
    """Return the unfinished packs in and below `folder`, itself included; nothing else that ends in `.partial`."""
    found = sorted({folder, *folder.rglob("*.partial")})
    ours = [
        path
        for path in found
        if path.suffix == ".partial" and any((path / name).is_file() for name in (PLAN_FILE, LOCK_FILE))
    ]
    return [path for path in ours if not any(parent in ours for parent in path.parents)]
