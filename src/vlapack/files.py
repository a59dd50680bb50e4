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

from vlapack.errors import WorkError


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


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return the tensor's values as little-endian bytes, without a copy where it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
