"""A pack folder, opened as a Checkpoint and loaded as a network. The format is described in docs/pack-format.md.

Every tensor is checked against the checksum that was written with it, by reading and not through a mapping: only the
token embedding stays mapped, and checking it leaves nothing of it in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlapack.checkpoints.assets import NORM_STATS_FILE, TOKENIZER_FILE
from vlapack.checkpoints.base import Normalization
from vlapack.checkpoints.folder import CheckpointFolder
from vlapack.checkpoints.mapping import TensorFile
from vlapack.checkpoints.packconfig import PackedGroup, packed_groups, policy_config, read_config
from vlapack.checkpoints.packfile import WEIGHTS, digest_of, tensor_bytes
from vlapack.errors import InputError
from vlapack.linear import ActivationStep, PackedLinear
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import EMBEDDING
from vlapack.pi0.savings import Savings
from vlapack.pi0.stored import StoredEmbedding

EMBEDDING_MODULE = EMBEDDING.rpartition(".")[0]


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
        self._compare(name, hashlib.sha256(tensor_bytes(tensor)).hexdigest())
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
            if name != WEIGHTS:
                _check_file(path / name, digest)
        config = policy_config(document)
        return cls(
            path=path,
            document=document,
            config=config,
            normalization=Normalization.load(path / NORM_STATS_FILE, config.normalization),
            tokenizer=path / TOKENIZER_FILE,
            weights=PackFile(path / WEIGHTS, document["files"][WEIGHTS]),
        )

    @property
    def fingerprint(self) -> str:
        """The pack's fingerprint in one hexadecimal number."""
        return str(self.document["fingerprint"]["hex"])

    @property
    def groups(self) -> list[PackedGroup]:
        """The packed layers, by the transform that they share."""
        return packed_groups(self.document["quantization_config"])


def load_packed_model(
    checkpoint: PackedCheckpoint,
    dtype: torch.dtype = torch.float32,
    savings: Savings = Savings(),  # noqa: B008 - it is frozen
) -> Pi0:
    """Return the network of a pack, every weight held as the pack stores it.

    Layers that never run stay on meta; the embedding stays in the file. Every tensor is checked, these included.

    Args:
        checkpoint: the pack.
        dtype: of the arithmetic around the integer products; see `load_weights`.
        savings: what is neither computed nor held.

    Raises:
        InputError: a tensor is damaged or missing.
    """
    model = build(checkpoint.config.architecture, savings)
    of_module: dict[str, dict[str, str]] = {}
    for name in checkpoint.names():
        module, _, kind = name.rpartition(".")
        of_module.setdefault(module, {})[kind] = name
    unread = set(checkpoint.names())

    def take(name: str) -> Tensor:
        unread.discard(name)
        return checkpoint.read(name)

    def tensors(module: str) -> dict[str, Tensor]:
        return {kind: take(name) for kind, name in of_module.pop(module, {}).items()}

    for group in checkpoint.groups:
        if group.executed or not savings.last_layer:
            for name, packed in _packed_linears(group, {name: tensors(name) for name in group.layers}):
                model.set_submodule(name, packed)
        else:
            for name in group.layers:
                del of_module[name]
    embedding = checkpoint.weights.mapped if savings.embedding_rows else checkpoint.read
    rows = {kind: embedding(name) for kind, name in of_module.pop(EMBEDDING_MODULE).items()}
    model.set_submodule(EMBEDDING_MODULE, StoredEmbedding(rows["weight"], rows.get("weight_scale"), dtype))
    load_weights(model, take, [name for kinds in of_module.values() for name in kinds.values()], dtype)
    for name in unread:
        checkpoint.weights.check(name)
    return model


def _packed_linears(group: PackedGroup, tensors: dict[str, dict[str, Tensor]]) -> Iterator[tuple[str, PackedLinear]]:
    """Build the layers of one group around the one activation step that they share."""
    first = tensors[group.layers[0]]
    inputs = ActivationStep(first, act_bits=group.act_bits, act_scale=group.act_scale)
    for name in group.layers:
        yield (
            name,
            PackedLinear.from_tensors(
                tensors[name], weight_bits=group.weight_bits[name], group_size=group.group_size, inputs=inputs
            ),
        )


def _check_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing from the pack; copy the whole folder, or quantize again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise InputError(f"{path} is not as it was written (its checksum differs); copy the pack again")
