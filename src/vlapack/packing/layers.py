"""The layers of a pack, calibrated, packed and written: one bar for all of it, and on again after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from vlapack.checkpoints.pack.writer import PackWriter
from vlapack.console import say
from vlapack.machine import gpu
from vlapack.machine.gpu import CPU
from vlapack.packing.parent import Parent
from vlapack.packing.ready import Ready, known_blocks, put_in_place
from vlapack.packing.streaming import compute_dtype, stream
from vlapack.plan.folding import chains
from vlapack.plan.selected import Group, Selected
from vlapack.progress import InterleavedProgress, meter
from vlapack.quantize.groups import Block, QuantizedGroup, quantize, weights_only
from vlapack.recipe.recipe import Recipe

CALIBRATING, PACKING = "calibrating", "packing"


@dataclass(frozen=True)
class PackedLayers:
    """What packing leaves behind beside the written layers."""

    errors: dict[str, float]
    """Layer → relative rounding error, of the layers that an earlier run packed too."""
    calibration_seconds: float
    """How long the float network ran, this time."""


def pack_layers(
    writer: PackWriter,
    parent: Parent,
    groups: Sequence[Group],
    recipe: Recipe,
    observations: Sequence[Mapping[str, Any]] | None,
    *,
    on_layer: Callable[[Selected, QuantizedGroup], None],
    ready: Ready | None = None,
    device: torch.device = CPU,
) -> PackedLayers:
    """Pack every group that `writer` does not have yet, or whose chain it does not have.

    Args:
        writer: takes the groups' tensors, each as a piece named by its first layer, with the errors as its note.
        parent: the float checkpoint.
        groups: what is to be packed.
        recipe: how.
        observations: calibrate; None: the recipe does without.
        on_layer: is told of every layer that is packed now.
        ready: what was packed or seen before.
        device: where the network runs and the layers are packed.

    Raises:
        InputError: as in `quantize.quantize` and `policy.streaming.stream`.
    """

    def finished(group: Group) -> bool:
        return writer.note(group[0].name) is not None

    def errors() -> dict[str, float]:  # in the groups' order, so that their mean does not depend on a kill
        return {name: error for group in groups for name, error in (writer.note(group[0].name) or {}).items()}

    open_chains = [chain for chain in chains(groups) if not all(map(finished, chain))]
    todo = [group for chain in open_chains for group in chain]
    if len(todo) < len(groups):
        say(f"resuming {writer.partial}: {len(groups) - len(todo)} of {len(groups)} groups of layers are finished")
    if not todo:
        return PackedLayers(errors(), 0.0)
    total = sum(map(weights_in, groups))
    packed_size = total - sum(map(weights_in, todo))
    with meter("packing") as show:
        turns = InterleavedProgress(show, {CALIBRATING: 0.0, PACKING: packed_size / total})

        def write(group: Group, packed: QuantizedGroup) -> None:
            nonlocal packed_size
            packed = packed.to(CPU)
            writer.write(group[0].name, packed.tensors, packed.errors)
            packed_size += weights_in(group)
            for layer in group:
                on_layer(layer, packed)
            worst, mean = max(packed.errors.values()), fmean(errors().values())
            turns.reach(PACKING, packed_size / total, f"{group[0].name} error {worst:.4f}, mean {mean:.4f}")

        def tick(done: float, place: str) -> None:
            turns.reach(CALIBRATING, done, f"calibrating {place}")

        read = parent.reader(device)
        if ready is not None:
            open_chains = put_in_place(open_chains, ready, read, write)
            open_chains, known = known_blocks(open_chains, ready)
            quantize(read, write, known, recipe)
            todo = [group for chain in open_chains for group in chain]
        blocks: Iterable[Block] = weights_only(todo)
        if observations is not None and todo:
            dtype = compute_dtype(parent, device)
            where = f" on {gpu.card(device)}" if device.type == "cuda" else ""
            say(f"calibrating on {len(observations)} observations in {str(dtype).removeprefix('torch.')}{where}")
            blocks = stream(parent, todo, recipe, observations, dtype=dtype, device=device, tick=tick)
        quantize(read, write, blocks, recipe)
    return PackedLayers(errors(), turns.seconds(CALIBRATING))


def weights_in(group: Group) -> int:
    """How many weights a group has: what packing it costs, about."""
    return sum(layer.in_features * layer.out_features for layer in group)
