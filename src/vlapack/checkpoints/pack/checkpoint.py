"""A pack folder, opened as a Checkpoint and loaded as a network. The format is described in docs/pack-format.md.

Every tensor is checked against the checksum that was written with it, by reading and not through a mapping: only the
token embedding stays mapped, and checking it leaves nothing of it in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlapack.checkpoints.assets import NORM_STATS_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from vlapack.checkpoints.base import Checkpoint, Normalization
from vlapack.checkpoints.folder import CheckpointFolder
from vlapack.checkpoints.pack.config import PackedGroup, packed_groups, policy_config, read_config
from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.checkpoints.tensorlayout import digest_of
from vlapack.errors import InputError
from vlapack.files import raw_bytes


class PackFile(TensorFile):
    """A pack's weights, each tensor checked as it is read.

    Args:
        path: `model.safetensors`.
        header_digest: SHA-256 of its header, as `config.json` holds it.

    Raises:
        InputError: the file is missing or truncated, or its header is not as it was written.
    """

    def __init__(self, path: Path, header_digest: str) -> None:
        """Read and check the header."""
        super().__init__(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if digest_of(file, length) != header_digest:
                raise InputError(f"the header of {path} is damaged; copy the pack again, or quantize again")
        self._sums: dict[str, str] = json.loads(self.metadata["sha256"])

    def read(self, name: str) -> Tensor:
        """One tensor in memory of its own, its checksum compared."""
        tensor = super().read(name)
        self._compare(name, hashlib.sha256(raw_bytes(tensor)).hexdigest())
        return tensor

    def check(self, name: str) -> None:
        """Compare one tensor's checksum without holding the tensor."""
        entry = self._find(name)
        with self.path.open("rb") as file:
            file.seek(entry.start)
            self._compare(name, digest_of(file, entry.nbytes))

    def _compare(self, name: str, found: str) -> None:
        if found != self._sums[name]:
            raise InputError(
                f"{self.path}: the bytes of {name} are damaged (checksum {found[:12]}…, written as "
                f"{self._sums[name][:12]}…); copy the pack again, or quantize again"
            )


@dataclass(frozen=True, kw_only=True)
class PackedCheckpoint(CheckpointFolder):
    """One pack folder; see `checkpoints.base.Checkpoint` for the methods."""

    document: dict[str, Any]
    """The whole `config.json`."""
    normalization: Normalization
    tokenizer: Path
    weights: PackFile

    @classmethod
    def open(cls, path: Path) -> PackedCheckpoint:
        """Open a pack; tensors are read later.

        Raises:
            InputError: it is no pack, of a newer format, or anything but a tensor is damaged.
        """
        document = read_config(path)
        for name, digest in document["files"].items():
            if name != WEIGHTS_FILE:
                _check_file(path / name, digest)
        config = policy_config(document)
        return cls(
            path=path,
            document=document,
            config=config,
            normalization=Normalization.load(path / NORM_STATS_FILE, config.normalization),
            tokenizer=path / TOKENIZER_FILE,
            weights=PackFile(path / WEIGHTS_FILE, document["files"][WEIGHTS_FILE]),
        )

    @property
    def fingerprint(self) -> str:
        """The pack's fingerprint in one hexadecimal number."""
        return str(self.document["fingerprint"]["hex"])

    @property
    def groups(self) -> list[PackedGroup]:
        """The packed layers, by the transform that they share."""
        return packed_groups(self.document["quantization_config"])


def _check_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing from the pack; copy the whole folder, or quantize again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise InputError(f"{path} is not as it was written (its checksum differs); copy the pack again")


def needed_bytes(checkpoint: Checkpoint) -> int:
    """Bytes that loading a policy takes, about: those of its file.

    Weights are held as they are stored, and widened one layer at a time.
    """
    return sum(math.prod(checkpoint.shape(name)) * checkpoint.dtype(name).itemsize for name in checkpoint.names())
