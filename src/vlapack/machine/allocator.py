"""The memory that glibc's allocator keeps for a process: as little as loading allows, or as much as speed asks for.

Loading repacks tensors and frees the originals, 0.5 GB of them for π0.5; glibc would keep much of it for
itself. A chunk then allocates and frees the same megabytes of activations over and over; left to itself, glibc may
return each to the kernel and have it zeroed and mapped again: 300,000 page faults, a tenth of π0.5's time. Where
gradients are computed it is the other way round: see `map_large_blocks`.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of malloc.h."""
KEPT = 1 << 30
"""Free bytes at the heap's end above which glibc returns them: more than a chunk ever frees."""
LARGEST = 1 << 25
"""Tensors up to these 32 MiB come from the heap, the most that glibc allows; larger ones are mapped each time."""


def settle() -> None:
    """Return what loading freed, and from now on keep what chunks free.

    Does nothing where the C library is not glibc; the variables by which users tune glibc (`MALLOC_…`,
    `GLIBC_TUNABLES`) stay in force.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
        _tune(library, mapped_from=LARGEST, kept=KEPT)


def map_large_blocks() -> None:
    """Have every block of 4 MB or more mapped by itself, for as long as the process lives.

    As large blocks are freed, glibc takes ever larger ones (up to 32 MB) from its heap, and small ones that stay settle
    in the holes. A π0.5 whose intermediate results wait for their gradients took more than 24 GB in place of 16,
    because every layer's widened weight comes and goes between two of them. The users' own tuning stays in force.
    """
    library = _glibc()
    if library is not None:
        _tune(library, mapped_from=4 << 20, kept=128 << 20)


def _tune(library: ctypes.CDLL, *, mapped_from: int, kept: int) -> None:
    """Set from how many bytes a block is mapped by itself, and how many free ones stay at the heap's end."""
    if not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        library.mallopt(M_MMAP_THRESHOLD, mapped_from)
        library.mallopt(M_TRIM_THRESHOLD, kept)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "malloc_trim") else None
