"""Files that are written whole or not at all, those that only one process may hold, and what a full disk means."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vlapack.errors import InputError, WorkError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def full_disk_explained(target: Path, work: Path) -> Iterator[None]:
    """Turn a full disk into a WorkError, which says that what is finished of `target` stays in the folder `work`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise WorkError(
            f"the disk of {target} is full; what is finished stays in {work}: "
            "free some space and give the same command again"
        ) from None


def write_all(file: FileIO, content: bytes | memoryview) -> None:
    """Write everything, in as many calls as the system wants."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def replaced(path: Path, *, draft: str | None = None) -> Iterator[Path]:
    """Yield a file to write beside `path`, which takes its place when all went well.

    A reader sees the old file or the new one, and a kill or an error leaves the old one.

    Args:
        path: the file to be written or replaced.
        draft: the name until then, for programs that look at a name's ending; by default `path`'s and `.new`.
    """
    written = path.with_name(draft or f"{path.name}.new")
    yield written
    os.replace(written, path)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a kill leaves the old one or the new one."""
    with replaced(path) as draft:
        draft.write_bytes(content)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file for people and programs, as `write_atomically` does; NaN, which JSON lacks, is an error."""
    write_atomically(path, (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def try_lock(file: int | IO[Any]) -> bool:
    """Claim an open file until it is closed, or the process ends; False where another one holds it already.

    Only those who ask are kept away: reading and writing go on without it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds a file; where the disk cannot say, one might."""
    with path.open("rb") as file:
        try:
            return not try_lock(file)
        except OSError:
            return True


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the few lines that git leaves in a file's place where git-lfs is not installed.

    Raises:
        InputError: `path` is such a file. One that cannot be read is left to the one who reads it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError:
        return
    if start == LFS_POINTER:
        raise InputError(
            f"{path}: a git-lfs pointer, not the file itself; run `git lfs pull` in its repository (`git lfs install` "
            "once before)"
        )


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the tensor's values as little-endian bytes, without a copy where it is contiguous."""
    import torch  # not above: a simulator's process writes files and never loads torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
