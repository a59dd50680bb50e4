"""A pack and its parent by their headers: bytes by part, bits and rounding error of every layer. No weight is read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vlapack.checkpoints import open_with
from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.files import from_home
from vlapack.plan.selected import part_of
from vlapack.report.evidence import InspectedLayer

PARTS = ("vision", "projector", "llm", "expert", "adarms", "action", "embedding")
ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2")
"""Of the rows of a strip: as an input goes through a layer."""

_LAYER = re.compile(r"\blayers\.(\d+)\.")


@dataclass(frozen=True)
class PackFacts:
    """What a report says of a pack.

    Attributes:
        name: what the user called it.
        files: part of the network → bytes in its file.
        bits: layer → `W4A8`, as it is packed.
        errors: layer → relative rounding error of its weight; empty for packs of versions that did not note it.
        mean_error, max_error, worst_layer: the same in short, which every pack has.
        recipe, fingerprint, made_with: of its `config.json`.
    """

    name: str
    files: Mapping[str, int]
    bits: Mapping[str, str]
    errors: Mapping[str, float]
    mean_error: float | None
    max_error: float | None
    worst_layer: str | None
    recipe: Mapping[str, Any]
    fingerprint: str
    parent_weights: str
    made_with: Mapping[str, Any]
    version: str


def pack_facts(name: str) -> PackFacts:
    """Open a pack and describe it.

    Raises:
        InputError: it is damaged.
    """
    checkpoint = PackedCheckpoint.open(from_home(name))
    document = checkpoint.document
    error = document["measured"].get("weight_error") or {}
    return PackFacts(
        name=name,
        files=bytes_by_part(checkpoint),
        bits={layer: selected.bits for layer, selected in checkpoint.contents.layers.items()},
        errors=_numbers(document["measured"].get("layer_errors"), checkpoint.contents.layers),
        mean_error=_number(error.get("mean")),
        max_error=_number(error.get("max")),
        worst_layer=str(error["worst_layer"]) if "worst_layer" in error else None,
        recipe=document["recipe"],
        fingerprint=checkpoint.fingerprint,
        parent_weights=str(document["fingerprint"].get("weights", "")),
        made_with=document.get("made_with") or {},
        version=str(document.get("vlapack", "")),
    )


def parent_files(name: str, options: Mapping[str, Any]) -> dict[str, int]:
    """Return the bytes of every part of a float policy's file.

    Args:
        name: its folder, or `tiny-libero`.
        options: what the folder does not say (`checkpoints.open_with`).

    Raises:
        InputError: it cannot be opened.
    """
    return bytes_by_part(open_with(name, **options))


def bytes_by_part(checkpoint: Checkpoint) -> dict[str, int]:
    """Return part of the network → bytes of its tensors as they are stored, in the network's order."""
    found = dict.fromkeys(PARTS, 0)
    for name in checkpoint.names():
        found[part_of(name)] += math.prod(checkpoint.shape(name)) * checkpoint.dtype(name).itemsize
    return {part: nbytes for part, nbytes in found.items() if nbytes}


def bits_of(layers: Iterable[InspectedLayer]) -> dict[str, str]:
    """Return layer → bits of a plan that `vlapack inspect --json` wrote."""
    return {
        layer.name: f"W{layer.weight_bits}{f'g{layer.group_size}' if layer.group_size else ''}A{layer.act_bits}"
        for layer in layers
    }


def grid(values: Mapping[str, Any]) -> dict[str, dict[tuple[str, int], Any]]:
    """Arrange values of layers for a strip: part → (projection, number of the layer) → value.

    A layer that has no number is in column 0.
    """
    found: dict[str, dict[tuple[str, int], Any]] = {}
    for name, value in values.items():
        number = _LAYER.search(name)
        names = name.split(".")
        projection = names[-2] if names[-1] == "dense" else names[-1]  # a layer has one of them in each norm
        cell = (projection, int(number[1]) if number else 0)
        found.setdefault(part_of(name), {})[cell] = value
    order = {part: sorted(cells, key=lambda cell: (_place(cell[0]), cell)) for part, cells in found.items()}
    return {part: {cell: found[part][cell] for cell in order[part]} for part in PARTS if part in found}


def _place(projection: str) -> int:
    return ORDER.index(projection) if projection in ORDER else len(ORDER)


def _numbers(found: object, layers: Mapping[str, Any]) -> dict[str, float]:
    if not isinstance(found, dict):
        return {}
    return {name: value for name in layers if (value := _number(found.get(name))) is not None}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
