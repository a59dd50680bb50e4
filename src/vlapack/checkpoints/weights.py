"""Tensors by name, however they lie on disk: one file, several, under other names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vlapack.checkpoints.assets import SHARD_INDEX_FILE, WEIGHTS_FILE
from vlapack.checkpoints.spelling import WRAPPERS, plain_name, without_wrappers, wrappers_of
from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.console import say
from vlapack.documents import is_file, read_json
from vlapack.errors import InputError
from vlapack.pi0.positions import ROPE_BASE

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CONVERSION = (
    "from safetensors.torch import save_file; import torch; save_file({k: v.contiguous().clone() for k, v in "
    "torch.load('FILE', map_location='cpu', weights_only=True).items()}, 'model.safetensors')"
)

HARMLESS: Mapping[str, tuple[str, Callable[[Tensor], Tensor] | None]] = {
    r"\bembeddings\.position_ids": ("always 0, 1, 2, …", lambda found: torch.arange(found.numel())),
    r"\brotary_emb\.(original_)?inv_freq": (
        "computed from the sizes",
        lambda found: ROPE_BASE ** (-torch.arange(found.numel()) / found.numel()),
    ),
    r"\bgemma_expert\.model\.embed_tokens\.weight": ("the expert reads no tokens", None),
}
"""Tensors that some versions of the libraries store and our network lacks: pattern of the name's end → why no action
depends on it, and the values that this holds for (None: any)."""


class Weights(Protocol):
    """What a checkpoint's tensors are read through; names are those that the loader asks for."""

    @property
    def path(self) -> Path:
        """The file or folder that messages name."""
        ...

    def names(self) -> list[str]:
        """Every tensor's name."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        ...

    def dtype(self, name: str) -> torch.dtype:
        """Element type of one tensor, without reading it."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        ...

    def mapped(self, name: str) -> Tensor:
        """One tensor, left on disk where it lies there as it is."""
        ...


class ShardedFile:
    """Hugging Face's shards: `model.safetensors.index.json` says which file holds which tensor.

    Args:
        path: the index.

    Raises:
        InputError: a shard is missing, truncated, or does not hold exactly what the index says.
    """

    def __init__(self, path: Path) -> None:
        """Read the index and every shard's header."""
        self.path = path
        placed = read_json(path).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise InputError(f"{path}: no weight_map, which says where each tensor is; copy the folder again")
        shards = {file: TensorFile(self._shard(str(file))) for file in sorted(set(placed.values()))}
        held = {name: file for file, shard in shards.items() for name in shard.names()}
        for name in placed.keys() | held.keys():
            if placed.get(name) != held.get(name):
                raise InputError(
                    f"{path}: says that {name} lies in {placed.get(name)}, but it lies in {held.get(name)}; "
                    "the shards are not of one checkpoint: copy the folder again"
                )
        self._of = {name: shards[file] for name, file in placed.items()}

    def _shard(self, file: str) -> Path:
        shard = self.path.parent / file
        if Path(file).name != file or not is_file(shard):
            raise InputError(f"{self.path}: names the shard {file!r}, which is not a file next to it; copy it again")
        return shard

    def names(self) -> list[str]:
        """Every tensor's name, in the index's order."""
        return list(self._of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._of[name].shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Element type of one tensor."""
        return self._of[name].dtype(name)

    def read(self, name: str) -> Tensor:
        """One tensor in memory of its own."""
        return self._of[name].read(name)

    def mapped(self, name: str) -> Tensor:
        """One tensor, left on disk."""
        return self._of[name].mapped(name)


class Renamed:
    """The same tensors under other names.

    Args:
        weights: where they lie.
        stored: new name → name there; tensors that are not in it are left out.
    """

    def __init__(self, weights: Weights, stored: Mapping[str, str]) -> None:
        """Keep both."""
        self.path = weights.path
        self._weights = weights
        self._stored = stored

    def names(self) -> list[str]:
        """Every new name."""
        return list(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._weights.shape(self._stored[name])

    def dtype(self, name: str) -> torch.dtype:
        """Element type of one tensor."""
        return self._weights.dtype(self._stored[name])

    def read(self, name: str) -> Tensor:
        """One tensor in memory of its own."""
        return self._weights.read(self._stored[name])

    def mapped(self, name: str) -> Tensor:
        """One tensor, left on disk where it lies there as it is."""
        return self._weights.mapped(self._stored[name])


def open_weights(folder: Path) -> Weights:
    """Open the safetensors of a folder, one file or shards.

    Names lose what a wrapper put before them (`WRAPPERS`), and buffers that mean nothing are left out (`HARMLESS`);
    both are said.

    Raises:
        InputError: no folder, none in it, or only a pickle, which is refused with the line that converts it; or two
            names that differ by a wrapper's prefix only.
    """
    return _without_harmless(_unwrapped(_stored(folder)))


def _stored(folder: Path) -> Weights:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a checkpoint is a folder with {WEIGHTS_FILE}")
    if (folder / WEIGHTS_FILE).is_file():
        return TensorFile(folder / WEIGHTS_FILE)
    if (folder / SHARD_INDEX_FILE).is_file():
        return ShardedFile(folder / SHARD_INDEX_FILE)
    if pickles := sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES):
        raise InputError(
            f"{folder}: holds {', '.join(pickles)}, a pickle, which runs any code it likes when it is loaded; convert "
            f'it, for each FILE: python -c "{CONVERSION}"'
        )
    raise InputError(f"{folder}: no {WEIGHTS_FILE}; the folder holds {sorted(file.name for file in folder.iterdir())}")


def _unwrapped(weights: Weights) -> Weights:
    """The same tensors under the names that the network itself gives them."""
    met = dict.fromkeys(wrapper for name in weights.names() for wrapper in wrappers_of(name))
    if not met:
        return weights
    renamed = _renamed(weights, without_wrappers)
    wrapped = " and ".join(f"{prefix!r} ({WRAPPERS[prefix]}'s)" for prefix in met)
    say(f"{weights.path}: read without {wrapped} in the names of the tensors")
    return renamed


def plainly_named(weights: Weights) -> Weights:
    """Return a LeRobot policy's tensors under openpi's names.

    Raises:
        InputError: two of them would have one name.
    """
    return _renamed(weights, plain_name)


def _renamed(weights: Weights, new: Callable[[str], str]) -> Weights:
    stored: dict[str, str] = {}
    for name in weights.names():
        if (other := stored.setdefault(new(name), name)) != name:
            raise InputError(
                f"{weights.path}: {other} and {name} are the same tensor's names with and without a prefix; save one "
                "network's state_dict only"
            )
    return weights if all(ours == theirs for ours, theirs in stored.items()) else Renamed(weights, stored)


def _without_harmless(weights: Weights) -> Weights:
    """The same tensors without those that no action depends on."""
    ignored: dict[str, str] = {}
    for name in weights.names():
        for pattern, (why, expected) in HARMLESS.items():
            if re.search(f"{pattern}$", name):
                ignored[name] = why
                found = weights.read(name).flatten() if expected else torch.empty(0)
                if expected and not torch.allclose(found.double(), expected(found).double(), rtol=0.01):
                    raise InputError(
                        f"{weights.path}: {name} is not as usual ({why}), so the policy was trained with another "
                        "network than openpi's, and would act differently here: such policies are not supported"
                    )
    if not ignored:
        return weights
    first, why = next(iter(ignored.items()))
    more = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
    say(f"{weights.path}: ignored {first} ({why}){more}: no action depends on it")
    return Renamed(weights, {name: name for name in weights.names() if name not in ignored})
