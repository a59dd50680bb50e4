"""PEFT's adapters, merged into the weights that they were trained on: W + s · B A (LoRA, arXiv 2106.09685).

A folder that LeRobot trained with PEFT holds `adapter_config.json`, `adapter_model.safetensors` and the processors; its
base is elsewhere. Merging happens tensor by tensor as they are read, in fp32. DoRA (arXiv 2402.09353) then scales every
row to a length that was trained. A tensor of the adapter that has no place in the base is an error, and so is a kind of
adapter that is neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vlapack.checkpoints.assets import ADAPTER_FILE, hub_snapshot
from vlapack.checkpoints.peft_config import ADAPTER_CONFIG, AdapterConfig
from vlapack.checkpoints.spelling import plain_name
from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.checkpoints.weights import Weights
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.pi0.names import EMBEDDING, TIED_EMBEDDING

PREFIX = "base_model.model."

DOWN, UP, UP_BIAS, LENGTH = "A", "B", "B.bias", "magnitude"
PARTS = {
    "lora_A.weight": DOWN,
    "lora_B.weight": UP,
    "lora_B.bias": UP_BIAS,
    "lora_embedding_A": DOWN,
    "lora_embedding_B": UP,
    "lora_magnitude_vector": LENGTH,
    "lora_magnitude_vector.weight": LENGTH,
}
"""What follows a layer's name → what it is. A raw state dictionary has the adapter's name in it as well."""
PART = re.compile(
    r"(?P<layer>.+)\.(?P<kind>lora_(?:[AB]|embedding_[AB]|magnitude_vector))"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?P<leaf>\.weight|\.bias)?"
)
BASE_LAYER = ".base_layer."


@dataclass
class _Change:
    """What the adapter does to one layer.

    Attributes:
        layer: its name as PEFT saw it; patterns match that one.
        parts: what → the tensor's name in the file.
        embedding: whether rows are tokens, and B A stands transposed.
    """

    layer: str
    parts: dict[str, str] = field(default_factory=dict)
    embedding: bool = False


class Merged:
    """The weights of a base with an adapter in them; names are the base's.

    Args:
        base: what the adapter was trained on, under openpi's names.
        folder: holds the adapter.

    Raises:
        InputError: a kind of adapter that is neither LoRA nor DoRA, tensors that have no place in the base, parts that
            lack another, or other shapes than the configuration says.
    """

    def __init__(self, base: Weights, folder: Path) -> None:
        """Match the adapter's tensors with the base's."""
        self.path = folder / ADAPTER_FILE
        self._base = base
        self._config = AdapterConfig(folder)
        self._adapter = TensorFile(self.path)
        self._changes: dict[str, _Change] = {}
        self._replaced: dict[str, str] = {}
        self._known = set(base.names())
        names = {stored: stored.removeprefix(PREFIX) for stored in self._adapter.names()}
        parts = {stored: part for stored, name in names.items() if (part := PART.fullmatch(name))}
        if len(adapters := {part["adapter"] for part in parts.values()}) > 1:
            raise InputError(
                f"{self.path}: holds the adapters {', '.join(sorted(map(str, adapters)))}; save the one you want "
                "with PEFT's `save_pretrained(…, selected_adapters=[NAME])`"
            )
        left = [
            stored
            for stored, name in names.items()
            if not (self._place_part(parts[stored], stored) if stored in parts else self._place_whole(name, stored))
        ]
        if left:
            raise InputError(
                f"{self.path}: {len(left)} of its tensors have no place in the base {base.path}, the first is "
                f"{left[0]}; the adapter belongs to another base"
            )
        if not self._changes and not self._replaced:
            raise InputError(f"{self.path}: holds no tensor of an adapter; copy the file again")
        for name in self._changes:
            self._check_change(name)
        for name, stored in self._replaced.items():
            self._require_shape(stored, base.shape(name))

    def _place_part(self, part: re.Match[str], stored: str) -> bool:
        """Note one tensor of a layer that was adapted; False where the base has no such layer."""
        kind = PARTS.get(f"{part['kind']}{part['leaf'] or ''}")
        embedding = "embedding" in part["kind"]
        name = f"{plain_name(part['layer'])}.weight"
        if name == EMBEDDING and name not in self._known:
            name = TIED_EMBEDDING  # where openpi and older LeRobot keep it
        if kind is None or name not in self._known:
            return False
        change = self._changes.setdefault(name, _Change(part["layer"], embedding=embedding))
        if kind in change.parts:
            raise InputError(f"{self.path}: holds {change.parts[kind]} and {stored}, which are one; save it again")
        change.parts[kind] = stored
        return True

    def _place_whole(self, name: str, stored: str) -> bool:
        """Note a tensor that stands for the base's: trained whole, a bias, or the base's own below an adapted layer."""
        plain = plain_name(name.replace(BASE_LAYER, "."))
        if plain == EMBEDDING and plain not in self._known:
            plain = TIED_EMBEDDING
        bias = self._config.bias != "none" and name.endswith(".bias")
        if plain not in self._known or not (bias or BASE_LAYER in name or self._config.saves_whole(name)):
            return False
        self._replaced[plain] = stored
        return True

    def _check_change(self, name: str) -> None:
        change = self._changes[name]
        first = next(iter(change.parts.values()))
        if not {DOWN, UP} <= change.parts.keys():
            raise InputError(f"{self.path}: {first} comes without its other half")
        if (LENGTH in change.parts) != self._config.dora:
            raise InputError(
                f"{self.path}: use_dora is {self._config.dora}, and {change.layer} has "
                f"{'a' if LENGTH in change.parts else 'no'} lora_magnitude_vector; copy both files again"
            )
        rows, *columns = self._base.shape(name)
        rank = self._config.rank(change.layer)
        self._config.scale(change.layer)
        ones = (1,) * (len(columns) - 1)
        if change.embedding:
            self._require_shape(change.parts[DOWN], (rank, rows))
            self._require_shape(change.parts[UP], (*columns, rank))
        else:
            self._require_shape(change.parts[DOWN], (rank, *columns))
            self._require_shape(change.parts[UP], (rows, rank, *ones))
        if LENGTH in change.parts:
            across = columns[0] if change.embedding else rows
            self._require_shape(change.parts[LENGTH], (1, across, *ones) if ones else (across,))
        if UP_BIAS in change.parts:
            if self._bias_of(name) not in self._known:
                raise InputError(f"{self.path}: {change.parts[UP_BIAS]} has no bias in the base {self._base.path}")
            self._require_shape(change.parts[UP_BIAS], (rows,))

    def _require_shape(self, stored: str, shape: tuple[int, ...]) -> None:
        if self._adapter.shape(stored) != shape:
            raise InputError(
                f"{self.path}: {stored} has shape {list(self._adapter.shape(stored))}; the base and {ADAPTER_CONFIG} "
                f"ask for {list(shape)}"
            )

    @staticmethod
    def _bias_of(name: str) -> str:
        return f"{name.removesuffix('weight')}bias"

    def _biased_by(self, name: str) -> _Change | None:
        """Return the change that adds to this bias, None where none does."""
        if not name.endswith(".bias"):
            return None
        change = self._changes.get(f"{name.removesuffix('bias')}weight")
        return change if change is not None and UP_BIAS in change.parts else None

    def _is_changed(self, name: str) -> bool:
        return name in self._changes or name in self._replaced or self._biased_by(name) is not None

    def names(self) -> list[str]:
        """Every tensor's name, as the base has it."""
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Element type of one tensor: fp32 where the adapter changes it, as rounding would undo small changes."""
        return torch.float32 if self._is_changed(name) else self._base.dtype(name)

    def read(self, name: str) -> Tensor:
        """One tensor, merged, in memory of its own."""
        if not self._is_changed(name):
            return self._base.read(name)
        own = self._adapter.read(self._replaced[name]) if name in self._replaced else self._base.read(name)
        if (change := self._changes.get(name)) is not None:
            return self._merge(change, own.float())
        if (change := self._biased_by(name)) is not None:
            return own.float() + self._config.scale(change.layer) * self._part(change, UP_BIAS)
        return own.float()

    def _merge(self, change: _Change, weight: Tensor) -> Tensor:
        down, up = self._part(change, DOWN), self._part(change, UP)
        product = (up @ down).T if change.embedding else up.flatten(1) @ down.flatten(1)
        merged = weight + self._config.scale(change.layer) * product.reshape(weight.shape)
        if LENGTH not in change.parts:
            return merged
        # What has that length: a row of a linear layer or convolution, a column of an embedding.
        rows: Tensor = merged.T if change.embedding else merged.flatten(1)
        scaled: Tensor = rows * (
            self._part(change, LENGTH).view(-1, 1) / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        )
        return scaled.T.contiguous() if change.embedding else scaled.view_as(merged)

    def _part(self, change: _Change, kind: str) -> Tensor:
        return self._adapter.read(change.parts[kind]).float()

    def mapped(self, name: str) -> Tensor:
        """One tensor; those that the adapter does not change are left on disk."""
        return self.read(name) if self._is_changed(name) else self._base.mapped(name)


def base_of(folder: Path) -> Path:
    """Return the folder of the base that an adapter names: a path, or a repository in Hugging Face's cache.

    Adapters in folders below are not merged, as PEFT loads only the one that is asked for; they are said.

    Raises:
        InputError: it names none, or none that is on this machine.
    """
    config = AdapterConfig(folder)
    if others := sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER_CONFIG}")):
        say(f"note: {folder}: its adapter is merged; those in {', '.join(others)} are not, as in PEFT")
    name = config.base
    if not name:
        raise InputError(f"{config.path}: no base_model_name_or_path; write the base's folder there")
    for place in (folder / str(name), Path(str(name)), hub_snapshot(str(name), config.revision)):
        if place is not None and place.is_dir():
            return place
    if config.revision is None:
        base, fetch = repr(name), f"`hf download {name}`"
    else:
        base, fetch = f"{name!r} at revision {config.revision!r}", f"`hf download {name} --revision {config.revision}`"
    raise InputError(
        f"{config.path}: the base {base} is no folder here and not in Hugging Face's cache; fetch it with {fetch}, or "
        "write its folder there as base_model_name_or_path"
    )
