"""Every layer packed by every choice as a candidate: measured against the float layer, and put together at will.

Each group is quantized whole, with all its layers at 4 bits, then all at 8, and so on. The transform that they share
does not depend on bits, so a packed group may take some layers from the one and some from the other. It does depend on
*which* layers are quantized: where one of a group stays float, a pack's transform is made for the others only and
differs a little from the one here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from vlapack.linear import PackedLinear
from vlapack.machine.gpu import CPU
from vlapack.ops.activation import ActivationStep
from vlapack.packing.layers import CALIBRATING, PACKING, weights_in
from vlapack.packing.streaming import stream
from vlapack.pi0.names import EMBEDDING, EMBEDDING_MODULE
from vlapack.pi0.stored import StoredEmbedding
from vlapack.plan.folding import chains
from vlapack.plan.selected import Group, groups
from vlapack.progress import InterleavedProgress, meter
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import Prepared, QuantizedGroup, Read, pack_embedding, pack_group, prepare, read_weights
from vlapack.tune.allocate import Chosen, label
from vlapack.tune.folder import TuningFolder
from vlapack.tune.sensitivity import Choices
from vlapack.tune.space import EMBEDDING_BITS, Space

SHAPE = "weight_shape"
ERROR = "error"
"""A layer's rounding error, among its tensors."""


def pack_candidates(
    work: TuningFolder, space: Space, observations: Sequence[Mapping[str, Any]], device: torch.device = CPU
) -> None:
    """Pack every layer that runs, from what it sees of the observations; what is packed already is left out.

    Args:
        work: where the layers are kept.
        space: which they are.
        observations: in the layout's keys.
        device: where the network runs and the layers are packed.

    Raises:
        InputError: as in `streaming.stream`.
    """
    running = [group for group in space.groups if group[0].executed]

    def has(group: Group) -> bool:
        return work.has(piece_of(group))

    def finished(group: Group) -> bool:
        return all(map(has, _ways(space, group)))  # written last, after a group's inputs

    total = sum(map(weights_in, running)) * len(space.packed)
    done = sum(weights_in(group) for group in running for same in _ways(space, group) if has(same))

    def write(group: Group, packed: QuantizedGroup) -> None:
        nonlocal done
        errors = {f"{name}.{ERROR}": torch.tensor(error, dtype=torch.float64) for name, error in packed.errors.items()}
        work.keep(piece_of(group), packed.to(CPU).tensors | errors)
        done += weights_in(group)
        turns.reach(PACKING, done / total, group[0].name)

    if not all(map(finished, running)):
        with meter(f"packing at {', '.join(map(label, space.packed))} bits") as show:
            turns = InterleavedProgress(show, {CALIBRATING: 0.0, PACKING: done / total})
            tick = partial(turns.reach, CALIBRATING)
            packed_again = rotated_groups(space)
            read = space.parent.reader(device)
            blocks = stream(
                space.parent, running, space.base, observations, finished=finished, device=device, tick=tick
            )
            for block, inputs in blocks:
                for group in block:
                    if group[0].name in packed_again:
                        keep_inputs(work, group, inputs[group[0].name])
                    _pack(group, inputs[group[0].name], space, read=read, has=has, write=write)
                del block, inputs  # before the next block is computed
    if space.embedding and not work.has(EMBEDDING_MODULE):
        rows, scale = pack_embedding(space.parent.read(EMBEDDING).to(device))
        work.keep(EMBEDDING_MODULE, {"weight": rows.to(CPU), "scale": scale.to(CPU)})


def load_candidates(work: TuningFolder, space: Space, device: torch.device = CPU) -> Choices:
    """Return what `pack_candidates` packed, as modules on a device, laid out for its engine."""
    choices: dict[str, Mapping[Chosen, nn.Module]] = {}
    for group in space.groups:
        if group[0].executed:
            choices |= _modules(work, group, space, device)
    if space.embedding:
        rows = {name: tensor.to(device) for name, tensor in work.load(EMBEDDING_MODULE).items()}
        choices[EMBEDDING_MODULE] = {EMBEDDING_BITS: StoredEmbedding(rows["weight"], rows["scale"])}
    return choices


def rotated_groups(space: Space) -> set[str]:
    """Return the first layers of the groups that a pack rotates otherwise than they are measured here.

    Where values are rotated on their way to `o_proj`, all who take part are packed again, so their inputs are kept.
    With smoothing, which is folded nearly everywhere, that would be too much: then a pack calibrates again.
    """
    if space.base.smoothing:
        return set()
    planned = groups([space.planned[layer.name] for group in space.groups for layer in group], space.base)
    chained = [chain for chain in chains(planned) if any("rotation" in group[0].folded for group in chain)]
    return {group[0].name for chain in chained for group in chain if group[0].executed}


def keep_inputs(work: TuningFolder, group: Group, inputs: LayerInputs) -> None:
    """Keep what a group's layers see."""
    if not work.has(f"inputs/{group[0].name}"):
        tensors = {"absmax": inputs.absmax, "sample": inputs.sample, "tokens": torch.tensor(inputs.tokens)}
        work.keep(f"inputs/{group[0].name}", {name: tensor.to(CPU) for name, tensor in tensors.items()})


def _ways(space: Space, group: Group) -> list[Group]:
    """Return a group once for every choice, with all its layers packed by it."""
    return [tuple(space.at(layer, choice) for layer in group) for choice in space.packed]


def _pack(
    group: Group,
    inputs: LayerInputs,
    space: Space,
    *,
    read: Read,
    has: Callable[[Group], bool],
    write: Callable[[Group, QuantizedGroup], None],
) -> None:
    """Pack one group by each choice that it does not have yet."""
    weights = read_weights(read, group)
    prepared: dict[int, Prepared] = {}  # GPTQ's inputs are rounded as the layer's will be
    for same in _ways(space, group):
        if not has(same):
            act_bits = same[0].act_bits
            if act_bits not in prepared:
                prepared = {act_bits: prepare(read, same, weights, space.base, inputs)}
            write(same, pack_group(same, weights, space.base, prepared[act_bits]))


def piece_of(group: Group) -> str:
    """Name the piece of work that holds a group, packed by one choice."""
    return f"layers/{group[0].name}-{group[0].bits.removesuffix('A8')}"


def _modules(
    work: TuningFolder, group: Group, space: Space, device: torch.device
) -> dict[str, dict[Chosen, nn.Module]]:
    """Build the layers of one group around the one activation step that all share which round alike."""
    modules: dict[str, dict[Chosen, nn.Module]] = {layer.name: {} for layer in group}
    steps: dict[int, ActivationStep] = {}
    parent, act_scale = space.parent, space.base.act_scale
    for choice, same in zip(space.packed, _ways(space, group), strict=True):
        packed = work.load(piece_of(same))
        for layer in same:
            prefix, bias = f"{layer.name}.", f"{layer.name}.bias"
            tensors = {name.removeprefix(prefix): packed[name] for name in packed if name.startswith(prefix)}
            if bias in parent.tensors:
                tensors["bias"] = parent.read(bias).float()
            # All but the shape, which is read and not computed with.
            tensors = {name: value if name == SHAPE else value.to(device) for name, value in tensors.items()}
            if layer.act_bits not in steps:
                steps[layer.act_bits] = ActivationStep(tensors, act_bits=layer.act_bits, act_scale=act_scale)
            modules[layer.name][choice] = PackedLinear.from_tensors(
                tensors, weight_bits=layer.weight_bits, group_size=layer.group_size, inputs=steps[layer.act_bits]
            )
    return modules
