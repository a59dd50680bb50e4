"""safetensors files read tensor by tensor, copied into memory or left where they are, on disk.

`safetensors.safe_open` gives views into one mapping of the whole file, so nothing tells a tensor that is held from one
that the kernel may drop again. Here `read` always copies and `mapped` never does, and `is_mapped` tells them apart:
that is how the bytes a policy holds are counted.
"""

from __future__ import annotations

import json
import math
import re
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlapack.checkpoints.tensorlayout import DTYPES
from vlapack.errors import InputError
from vlapack.files import raw_bytes, refuse_lfs_pointer

HEADER_LENGTH_BYTES = 8

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
            InputError: the file is truncated, or is no safetensors file.
        """
        self.path = path
        refuse_lfs_pointer(path)
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
                data = HEADER_LENGTH_BYTES + length
                if size < HEADER_LENGTH_BYTES or data > size:
                    raise InputError(f"{path}: {size} bytes, cut off inside the header; copy the file again")
                header = json.loads(file.read(length))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path}: not a safetensors file: its header is no JSON ({error}); copy the file again"
            ) from error
        if not isinstance(header, dict):
            raise InputError(f"{path}: not a safetensors file: its header is no JSON object; copy the file again")
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self._entries = {name: self._entry(name, value, data) for name, value in header.items()}
        end = max((entry.start + entry.nbytes for entry in self._entries.values()), default=data)
        if end > size:
            raise InputError(f"{path}: {size} bytes, but its tensors need {end}: the file is truncated; copy it again")

    def _entry(self, name: str, value: dict[str, Any], data: int) -> _Entry:
        try:
            if (stored := value["dtype"]) not in DTYPES and UNSUPPORTED.fullmatch(stored):
                raise InputError(
                    f"{self.path}: tensor {name} is stored as {stored}; weights are F32, BF16, F16 or F64: give the "
                    "checkpoint that this one was converted from"
                )
            dtype, shape = DTYPES[value["dtype"]], tuple(int(size) for size in value["shape"])
            start, stop = value["data_offsets"]
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: tensor {name} has a header entry that cannot be used: {value}; copy the file again"
            ) from error
        if start < 0 or min(shape, default=0) < 0 or stop - start != math.prod(shape) * dtype.itemsize:
            raise InputError(
                f"{self.path}: tensor {name}: bytes {start} to {stop} do not hold {list(shape)} of {dtype}; copy the "
                "file again"
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
        """One tensor that stays on disk; writing into it changes this process's copy, never the file."""
        entry = self._find(name)
        if entry.nbytes == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
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
        with self.path.open("rb") as file:
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
