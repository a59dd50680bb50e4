"""Files that are written whole or not at all, and what a full disk means."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from vlapack.errors import InputError, WorkError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


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


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a kill leaves the old one or the new one."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(content)
    os.replace(draft, path)


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
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
