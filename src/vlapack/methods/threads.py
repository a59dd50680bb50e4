"""A given number of threads for computations whose last bits depend on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with this many threads in the block."""
    before = torch.get_num_threads()
    # Even for the same number: once told, MKL never takes fewer, which it may where nobody said anything.
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
