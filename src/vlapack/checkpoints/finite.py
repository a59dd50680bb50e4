"""NaN and infinity found while weights are read, in a second thread: reading waits for the disk or the page cache.

A float is NaN or infinite exactly if its exponent's bits are all ones. The compiled engine looks at those in one pass;
without it, two integer maxima over the bits decide: as signed numbers the positive floats, as unsigned ones the
negative. Both run at the speed of the memory, in any width, and on one thread; `torch.isfinite` takes ten times as long
and a mask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vlapack.checkpoints.tensorfile import is_mapped
from vlapack.errors import InputError
from vlapack.ops.engine import kernels

BLOCK = 1 << 19
"""Bytes looked at twice before the next: they stay in a core's cache."""

MAPPED_BLOCK = 1 << 24
"""Bytes of a tensor on disk that come into memory at a time."""

SIGNED = {2: (np.int16, np.uint16), 4: (np.int32, np.uint32), 8: (np.int64, np.uint64)}


class Source(Protocol):
    """What is read: a checkpoint, or anything that reads like one."""

    @property
    def path(self) -> Path:
        """Named in messages."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor in memory of its own."""
        ...

    def mapped(self, name: str) -> Tensor:
        """One tensor, left on disk where it can be."""
        ...


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; a tensor of whole numbers is always finite."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    width = tensor.dtype.itemsize
    signed, unsigned = SIGNED[width]
    infinity = int(torch.tensor(torch.inf, dtype=tensor.dtype).view(getattr(torch, np.dtype(signed).name)))
    sign = 1 << (8 * width - 1)
    flat = tensor.detach().contiguous().reshape(-1)
    if kernels is not None:
        return kernels.all_finite(flat.data_ptr(), flat.numel(), width, infinity)
    bits = flat.view(torch.uint8).numpy().view(signed)
    for start in range(0, len(bits), BLOCK // width):
        block = bits[start : start + BLOCK // width]
        if block.max() >= infinity or block.view(unsigned).max() >= sign | infinity:
            return False
    return True


def require_finite(tensor: Tensor, path: Path, name: str, *, first_row: int = 0) -> None:
    """Refuse a tensor that holds NaN or infinity.

    Args:
        tensor: any dtype.
        path: where it lies.
        name: what it is called there.
        first_row: where it begins in the tensor of that name.

    Raises:
        InputError: it names the tensor, the first such value and its place.
    """
    if is_finite(tensor):
        return
    place = (~tensor.isfinite()).nonzero()[0].tolist()
    value = float(tensor[tuple(place)])
    if place:
        place[0] += first_row
    raise InputError(
        f"{path}: {name} holds {value} at {place}, so the checkpoint is damaged, or its training diverged: get it "
        "again, or take an earlier one"
    )


class FiniteReader:
    """Reads a checkpoint's tensors, and checks each while the next is read. A context manager: it waits at its end.

    Args:
        source: the checkpoint.
        at_once: check a tensor before it is returned, in the caller's thread. A tensor that waits for its check is held
            meanwhile, which whoever moves it elsewhere and frees it does not want.

    Raises:
        InputError: on leaving, for the first tensor that holds NaN or infinity; with `at_once` on reading it.
    """

    def __init__(self, source: Source, *, at_once: bool = False) -> None:
        """Start the thread that checks."""
        self._source = source
        self._at_once = at_once
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="finite")
        self._checks: deque[Future[None]] = deque()

    def read(self, name: str) -> Tensor:
        """One tensor in memory of its own."""
        tensor = self._source.read(name)
        if tensor.is_floating_point():
            self._submit(lambda: require_finite(tensor, self._source.path, name))
        return tensor

    def mapped(self, name: str) -> Tensor:
        """One tensor, left on disk where it can be; checking brings a few rows of it into memory at a time."""
        tensor = self._source.mapped(name)
        if not tensor.is_floating_point():
            return tensor
        if is_mapped(tensor) and tensor.dim():
            self._submit(lambda: self._check_on_disk(name, tensor))
        else:
            self._submit(lambda: require_finite(tensor, self._source.path, name))
        return tensor

    def _check_on_disk(self, name: str, tensor: Tensor) -> None:
        rows = max(1, MAPPED_BLOCK * len(tensor) // max(tensor.nbytes, 1))
        for start in range(0, len(tensor), rows):
            # A mapping of its own each time: what was read leaves this process's memory with it.
            part = self._source.mapped(name)[start : start + rows]
            require_finite(part, self._source.path, name, first_row=start)

    def _submit(self, check: Callable[[], None]) -> None:
        if self._at_once:
            check()
            return
        self._checks.append(self._pool.submit(check))
        while self._checks and self._checks[0].done():
            self._checks.popleft().result()

    def __enter__(self) -> FiniteReader:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the checks, or drop them where reading has failed."""
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            for check in self._checks:
                check.result()
