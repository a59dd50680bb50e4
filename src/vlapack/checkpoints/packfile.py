"""The bytes of a pack's one `model.safetensors`: where each tensor lies, and the checksum that each one carries.

It is an ordinary safetensors file (any reader opens it), laid out by us for two reasons. The place of every tensor
is known before the first one is computed, so a pack of any size is written piece by piece; and the header's metadata
holds a SHA-256 of every tensor, of a fixed length, so that filling them in at the end moves nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vlapack.errors import InputError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
UNWRITTEN = "0" * 64
CHUNK = 16 * 2**20
MAX_HEADER = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor in the file is, before there are any values."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that its values take."""
        return math.prod(self.shape) * self.dtype.itemsize


def place(specs: Iterable[TensorSpec]) -> dict[str, tuple[TensorSpec, int]]:
    """Order the tensors as safetensors does, widest values first so that all stay aligned: name → (spec, offset)."""
    placed: dict[str, tuple[TensorSpec, int]] = {}
    offset = 0
    for spec in sorted(specs, key=lambda spec: (-spec.dtype.itemsize, spec.name)):
        assert spec.name not in placed, f"two tensors are called {spec.name}"
        placed[spec.name] = (spec, offset)
        offset += spec.nbytes
    return placed


def encode_header(placed: Mapping[str, tuple[TensorSpec, int]], checksums: Mapping[str, str]) -> bytes:
    """Return the file's first bytes: the header's length, then its JSON padded to 8 bytes.

    `checksums` holds the hexadecimal SHA-256 of each tensor; the result's length does not depend on it.
    """
    sums = {name: checksums.get(name, UNWRITTEN) for name in placed}
    document: dict[str, Any] = {"__metadata__": {"format": "pt", "sha256": json.dumps(sums, separators=(",", ":"))}}
    for name, (spec, offset) in placed.items():
        document[name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the tensor's values as little-endian bytes, without a copy where it is contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


class PackFile:
    """A finished `model.safetensors`, read tensor by tensor and never mapped.

    Raises:
        InputError: on opening, where the header is damaged or the file is not as long as it says; on reading, where
            a tensor's bytes do not have the checksum that was written with them.
    """

    def __init__(self, path: Path) -> None:
        """Read and check the header of `path`."""
        self.path = path
        if not path.is_file():
            raise InputError(f"{path} is missing, so this folder is no pack; quantize again or copy the whole folder")
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size, MAX_HEADER):
                raise InputError(f"{path} does not begin with a safetensors header; copy or quantize it again")
            self.header = file.read(length)
        self.start = 8 + length
        try:
            document = json.loads(self.header)
            self._sums: dict[str, str] = json.loads(document.pop("__metadata__")["sha256"])
            self._placed = {name: self._entry(name, entry) for name, entry in document.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the header of {path} is damaged ({error!r}); copy or quantize it again") from None
        end = self.start + sum(spec.nbytes for spec, _ in self._placed.values())
        if size != end:
            raise InputError(f"{path} has {size} bytes where its header promises {end}; copy or quantize it again")
        if self._sums.keys() != self._placed.keys():
            raise InputError(f"{path} does not carry one checksum per tensor; copy or quantize it again")

    @staticmethod
    def _entry(name: str, entry: dict[str, Any]) -> tuple[TensorSpec, int]:
        spec = TensorSpec(name, DTYPES[entry["dtype"]], tuple(int(size) for size in entry["shape"]))
        start, end = entry["data_offsets"]
        if end - start != spec.nbytes:
            raise ValueError(f"{name} takes {end - start} bytes where its shape needs {spec.nbytes}")
        return spec, start

    def specs(self) -> dict[str, TensorSpec]:
        """Every tensor in the file, by name."""
        return {name: spec for name, (spec, _) in self._placed.items()}

    def spec(self, name: str) -> TensorSpec:
        """What the tensor `name` is; KeyError where the file has none of that name."""
        return self._placed[name][0]

    def read(self, name: str) -> Tensor:
        """Copy one tensor into memory and check it."""
        spec, offset = self._placed[name]
        values = torch.empty(spec.nbytes, dtype=torch.uint8)
        with self.path.open("rb") as file:
            file.seek(self.start + offset)
            self._compare(name, read_into(file, values.numpy().data))
        return values.view(spec.dtype).reshape(spec.shape)

    def require_header(self, digest: str) -> None:
        """Refuse a header whose SHA-256 is not the one that `config.json` holds."""
        if hashlib.sha256(self.header).hexdigest() != digest:
            raise InputError(f"the header of {self.path} is damaged; copy the pack again, or quantize again")

    def check(self, name: str) -> None:
        """Check one tensor without holding it: what a memory-mapped one needs, and `verify`."""
        spec, offset = self._placed[name]
        with self.path.open("rb") as file:
            file.seek(self.start + offset)
            self._compare(name, digest_of(file, spec.nbytes))

    def _compare(self, name: str, found: str) -> None:
        if found != self._sums[name]:
            raise InputError(
                f"{self.path}: the bytes of {name} are damaged (checksum {found[:12]}…, written as "
                f"{self._sums[name][:12]}…); copy the pack again, or quantize again"
            )


def read_into(file: BufferedReader, values: memoryview) -> str:
    """Fill `values` from `file`; return the SHA-256 of what was read."""
    digest = hashlib.sha256()
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK]
        file.readinto(part)
        digest.update(part)
    return digest.hexdigest()


def digest_of(file: BinaryIO, count: int) -> str:
    """Return the SHA-256 of the next `count` bytes of `file`, holding one chunk at a time."""
    digest = hashlib.sha256()
    while count > 0 and (part := file.read(min(count, CHUNK))):
        digest.update(part)
        count -= len(part)
    return digest.hexdigest()
