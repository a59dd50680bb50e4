"""A pack folder, opened as a Checkpoint and loaded as a network. The format is described in docs/pack-format.md.

Every tensor is checked against the checksum that was written with it, by reading and not through a mapping: only the
token embedding stays mapped, and checking it leaves nothing of it in memory.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlapack.checkpoints.assets import CONFIG_FILE, NORM_STATS_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.folder import CheckpointFolder
from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.pack.card import CARD_FILE
from vlapack.checkpoints.pack.config import PackedGroup, file_inside, policy_config, read_config
from vlapack.checkpoints.pack.contents import Contents
from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.checkpoints.tensorlayout import digest_of
from vlapack.documents import open_regular, parse_json
from vlapack.errors import InputError
from vlapack.files import raw_bytes

MOST_FILE_BYTES = 64 * 2**20
"""Of a file beside the weights; PaliGemma's tokenizer has 4 MB."""


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
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if digest_of(file, length) != header_digest:
                raise InputError(f"the header of {path} is damaged; copy the pack again, or quantize again")
        self._sums = parse_json(self.metadata.get("sha256", "").encode(), f"{path}: sha256 in its header's metadata")
        if self._sums.keys() != set(self.names()):
            raise InputError(f"{path}: its header has not one checksum for each tensor; quantize again")

    def read(self, name: str) -> Tensor:
        """One tensor in memory of its own, its checksum compared."""
        tensor = super().read(name)
        self._compare(name, hashlib.sha256(raw_bytes(tensor)).hexdigest())
        return tensor

    def check(self, name: str) -> None:
        """Compare one tensor's checksum without holding the tensor."""
        entry = self._find(name)
        with open_regular(self.path) as file:
            file.seek(entry.start)
            self._compare(name, digest_of(file, entry.nbytes))

    def _compare(self, name: str, found: str) -> None:
        if found != self._sums[name]:
            raise InputError(
                f"{self.path}: the bytes of {name} are damaged (checksum {found[:12]}…, written as "
                f"{self._sums[name]!s:.12}…); copy the pack again, or quantize again"
            )


@dataclass(frozen=True, kw_only=True)
class PackedCheckpoint(CheckpointFolder):
    """One pack folder; see `checkpoints.base.Checkpoint` for the methods."""

    document: dict[str, Any]
    """The whole `config.json`."""
    normalization: Normalization
    tokenizer: Path
    weights: PackFile
    contents: Contents

    @classmethod
    def open(cls, path: Path) -> PackedCheckpoint:
        """Open a pack; tensors are read later.

        Raises:
            InputError: it is no pack, of a newer format, anything but a tensor is damaged, or what the pack says of its
                tensors is not what they are.
        """
        document = read_config(path)
        for name, digest in document["files"].items():
            if name != WEIGHTS_FILE:
                _check_file(file_inside(path, name), digest)
        config = policy_config(document)
        weights = PackFile(file_inside(path, WEIGHTS_FILE), document["files"][WEIGHTS_FILE])
        return cls(
            path=path,
            document=document,
            config=config,
            normalization=Normalization.load(path / NORM_STATS_FILE, config.normalization),
            tokenizer=path / TOKENIZER_FILE,
            weights=weights,
            contents=Contents.proven(path, document, config, weights),
        )

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own; its checksum and its values are checked."""
        tensor = super().read(name)
        self.contents.check_values(name, tensor)
        return tensor

    @property
    def files(self) -> list[Path]:
        """The pack's own files, which a copy takes along; others may lie in the folder.

        Raises:
            InputError: one is a link to another folder.
        """
        card = [CARD_FILE] if (self.path / CARD_FILE).is_file() else []
        return [file_inside(self.path, name) for name in (CONFIG_FILE, *card, *self.document["files"])]

    @property
    def fingerprint(self) -> str:
        """The pack's fingerprint in one hexadecimal number."""
        return str(self.document["fingerprint"]["hex"])

    @property
    def groups(self) -> Sequence[PackedGroup]:
        """The packed layers, by the transform that they share."""
        return self.contents.groups


def _check_file(path: Path, digest: str) -> None:
    if not path.exists():
        raise InputError(f"{path} is missing from the pack; copy the whole folder, or quantize again")
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_FILE_BYTES:
            raise InputError(f"{path} has {size} bytes, and a pack's small files at most {MOST_FILE_BYTES}")
        if digest_of(file, size) != digest:
            raise InputError(f"{path} is not as it was written (its checksum differs); copy the pack again")


def needed_bytes(checkpoint: Checkpoint) -> int:
    """Bytes that loading a policy takes, about: those of its file.

    Weights are held as they are stored, and widened one layer at a time.
    """
    return sum(math.prod(checkpoint.shape(name)) * checkpoint.dtype(name).itemsize for name in checkpoint.names())
