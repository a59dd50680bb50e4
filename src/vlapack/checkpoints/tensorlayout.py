"""The bytes of a pack's one `model.safetensors`: where each tensor lies, and the checksum that each one carries.

It is an ordinary safetensors file (any reader opens it), laid out by us for two reasons. The place of every tensor
is known before the first one is computed, so a pack of any size is written piece by piece; and the header's metadata
holds a SHA-256 of every tensor, of a fixed length, so that filling them in at the end moves nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vlapack.files import raw_bytes

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
    return _header(placed, {"format": "pt", "sha256": json.dumps(sums, separators=(",", ":"))})


def _header(placed: Mapping[str, tuple[TensorSpec, int]], metadata: Mapping[str, str]) -> bytes:
    document: dict[str, Any] = {"__metadata__": metadata}
    for name, (spec, offset) in placed.items():
        document[name] = {
            "dtype": DTYPE_NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def file_bytes(specs: Iterable[TensorSpec]) -> int:
    """Return the bytes of a pack's file with these tensors, its header included."""
    placed = place(specs)
    return len(encode_header(placed, {})) + sum(spec.nbytes for spec, _ in placed.values())


def write_tensors(path: Path, specs: Iterable[TensorSpec], read: Callable[[str], Tensor]) -> None:
    """Write a plain safetensors file with one tensor in memory at a time, in the order of `place`."""
    placed = place(specs)
    with path.open("wb") as file:
        file.write(_header(placed, {"format": "pt"}))
        for name in placed:
            file.write(raw_bytes(read(name)))


def digest_of(file: BinaryIO, count: int) -> str:
    """Return the SHA-256 of the next `count` bytes of `file`, holding one chunk at a time."""
    digest = hashlib.sha256()
    while count > 0 and (part := file.read(min(count, CHUNK))):
        digest.update(part)
        count -= len(part)
    return digest.hexdigest()
