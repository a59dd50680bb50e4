"""safetensors files read tensor by tensor, copied into memory or left where they are, on disk.

`safetensors.safe_open` gives views into one mapping of the whole file, so nothing tells a tensor that is held from one
that the kernel may drop again. Here `read` always copies and `mapped` never does, and `is_mapped` tells them apart:
that is how the bytes a policy holds are counted.

What `safe_open` refuses is refused here too, so that no file means one thing to us and another to somebody else's
tools; and so are names that stand twice in the header, of which it takes the last.
"""

from __future__ import annotations

import math
import os
import re
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from vlapack.checkpoints.tensorlayout import DTYPES
from vlapack.documents import MOST_JSON_BYTES, open_regular, parse_json, refuse_lfs_pointer
from vlapack.errors import InputError
from vlapack.files import raw_bytes

HEADER_LENGTH_BYTES = 8
MOST_DIMENSIONS = 8
MOST_ELEMENTS = 2**48
"""Product of a shape, zeros left out: those of an empty tensor have no bytes that would bound them."""

UNSUPPORTED = re.compile(r"F[468](_\w+)?|[UC]\d+")
"""Types that safetensors knows and no float policy is stored in, such as fp8."""

# Address -> bytes of every mapping that some tensor still uses.
_mappings: dict[int, int] = {}


@dataclass(frozen=True)
class _Entry:
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # from the beginning of the file
    nbytes: int


class TensorFile:
    """One safetensors file: its header in memory, its tensors on disk."""

    def __init__(self, path: Path) -> None:
        """Read and check the header.

        Raises:
            InputError: the file is truncated, is no safetensors file, or one that the library itself refuses.
        """
        self.path = path
        refuse_lfs_pointer(path)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
            data = HEADER_LENGTH_BYTES + length
            if size < HEADER_LENGTH_BYTES or data > size:
                raise InputError(f"{path}: {size} bytes, cut off inside the header; copy the file again")
            if length > MOST_JSON_BYTES:
                raise InputError(
                    f"{path}: not a safetensors file of a policy: a header of {length} bytes, and those of policies "
                    f"have less than {MOST_JSON_BYTES}; copy the file again"
                )
            text = file.read(length)
        try:
            header = parse_json(text, "its header")
        except InputError as error:
            raise InputError(f"{path}: not a safetensors file: {error}; copy the file again") from error
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self._entries = {name: self._entry(name, value, data) for name, value in header.items()}
        self._require_gapless(data, size)
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: the safetensors library refuses it: {error}; copy the file again") from error

    def _require_gapless(self, data: int, size: int) -> None:
        """Refuse bytes that belong to no tensor, or to two; the tensors begin at `data` of `size` bytes."""
        at, previous = data, "the header"
        for name, entry in sorted(self._entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
            if entry.start != at:
                what = f"{entry.start - at} bytes of no tensor before it" if entry.start > at else "bytes in common"
                raise InputError(f"{self.path}: tensor {name:.200}: {what} with {previous:.200}; copy the file again")
            at, previous = entry.start + entry.nbytes, name
        if at > size:
            raise InputError(
                f"{self.path}: {size} bytes, but its tensors need {at}: the file is truncated; copy it again"
            )
        if at < size:
            raise InputError(
                f"{self.path}: {size - at} bytes follow its last tensor, which belong to none; copy the file again"
            )

    def _entry(self, name: str, value: Any, data: int) -> _Entry:
        try:
            if (stored := value["dtype"]) not in DTYPES and UNSUPPORTED.fullmatch(stored):
                raise InputError(
                    f"{self.path}: tensor {name:.200} is stored as {stored}; weights are F32, BF16, F16 or F64: give "
                    "the checkpoint that this one was converted from"
                )
            dtype, shape = DTYPES[stored], tuple(value["shape"])
            start, stop = value["data_offsets"]
            whole = all(type(number) is int for number in (*shape, start, stop))
        except InputError:
            raise
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole or len(shape) > MOST_DIMENSIONS or math.prod(filter(None, shape)) > MOST_ELEMENTS:
            raise InputError(
                f"{self.path}: tensor {name:.200} has a header entry that cannot be used: {value!r:.200}; copy the "
                "file again"
            )
        if start < 0 or min(shape, default=0) < 0 or stop - start != math.prod(shape) * dtype.itemsize:
            raise InputError(
                f"{self.path}: tensor {name:.200}: bytes {start} to {stop} do not hold {list(shape)} of {dtype}; copy "
                "the file again"
            )
        return _Entry(dtype, shape, data + start, stop - start)

    def _find(self, name: str) -> _Entry:
        if name not in self._entries:
            raise InputError(f"{self.path}: no tensor {name!r} among its {len(self._entries)}")
        return self._entries[name]

    def names(self) -> list[str]:
        """Every tensor's name, in the file's order."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._find(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Element type of one tensor."""
        return self._find(name).dtype

    def mapped(self, name: str) -> torch.Tensor:
        """One tensor that stays on disk, where it lies aligned.

        Writing into it changes this process's copy, never the file.
        """
        entry = self._find(name)
        if entry.nbytes == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if entry.start % entry.dtype.itemsize:  # a header of odd length; kernels want values at their own multiples
            return self.read(name)
        # "c", private copy-on-write: torch warns about read-only buffers, and a stray write would kill the process.
        array = np.memmap(self.path, dtype=np.uint8, mode="c", offset=entry.start, shape=(entry.nbytes,))
        address = array.ctypes.data
        _mappings[address] = entry.nbytes
        weakref.finalize(array, _mappings.pop, address, None)
        return torch.frombuffer(array, dtype=entry.dtype).reshape(entry.shape)

    def read(self, name: str) -> torch.Tensor:
        """One tensor in memory of its own.

        Raises:
            InputError: the file has become shorter since it was opened.
        """
        entry = self._find(name)
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        # Not a copy of a mapping: faulting in its pages one by one takes longer than reading them.
        with open_regular(self.path) as file:
            file.seek(entry.start)
            if file.readinto(raw_bytes(tensor)) != entry.nbytes:
                raise InputError(f"{self.path}: tensor {name} is cut off: the file has been changed; copy it again")
        return tensor


def is_mapped(tensor: torch.Tensor) -> bool:
    """Whether the tensor's storage is a file's mapping, views and parameters of it included."""
    if tensor.device.type != "cpu":
        return False
    address = tensor.untyped_storage().data_ptr()
    # A copy: another thread may map or unmap meanwhile.
    return any(start <= address < start + nbytes for start, nbytes in list(_mappings.items()))
