"""How a float network becomes a packed one: transform, round, write, one group of layers at a time.

It takes a `read` and a `write`, so that a folder on disk and a module in memory are one path, and it is handed blocks:
groups of layers together with what their inputs were. It frees a block before it asks for the next, and never
holds more than one chain in float. Linears that read the same input form a group (`select.groups`) and share one
transform; groups that take steps of each other's transforms form a chain (`folding.chains`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.fold import FOLDS
from vlapack.methods.gptq import HessianFactor, gptq_weight, hessian_factor
from vlapack.methods.rotate import rotate_rows, row_rotation
from vlapack.methods.round import column_scale, round_weight, static_scale
from vlapack.methods.transform import Transform
from vlapack.ops.int4 import pack_int4
from vlapack.ops.reference import quantize_activation
from vlapack.plan.folding import chains
from vlapack.plan.selected import Group, Selected
from vlapack.plan.wiring import role
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.transforms import build_transform, required
from vlapack.recipe.recipe import Recipe

Read = Callable[[str], Tensor]
Block = tuple[Sequence[Group], Mapping[str, LayerInputs]]
"""Groups that are packed one after another, and the inputs of those that run, by the name of a group's first layer."""

TOKENS_AT_ONCE = 1024


@dataclass(frozen=True)
class QuantizedGroup:
    """The tensors of one group under their names in the pack, and each layer's relative rounding error.

    Float tensors that take folded steps of the group's transform are among them.
    """

    tensors: dict[str, Tensor]
    errors: dict[str, float]
    """Layer → ‖W' − s·q‖ / ‖W'‖ (Frobenius) of the weight as it is rounded."""
    folded_steps: Transform
    """The first steps of the group's transform, which the tensors `folded_into` are to do."""

    def to(self, device: torch.device) -> QuantizedGroup:
        """Return the same with its tensors on a device; the steps, which are done by then, stay."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})


@dataclass(frozen=True)
class Prepared:
    """What the layers of one group are packed by, all of them and at whatever bits."""

    transform: Transform
    scale: Tensor | None
    """The one step [1] of the activations, where it is static."""
    factor: HessianFactor | None
    """What GPTQ needs; None: to the nearest."""


def quantize(
    read: Read,
    write: Callable[[Group, QuantizedGroup], None],
    blocks: Iterable[Block],
    recipe: Recipe,
    *,
    finished: Callable[[Group], bool] = lambda group: False,
) -> None:
    """Pack the layers of every block, in the order in which they are given.

    Args:
        read: returns a parameter by its dotted name, floating, on the device that the work is to be done on.
        write: takes one finished group; it decides what becomes of the tensors.
        blocks: the groups with their inputs, on the same device; see `weights_only` and `policy.streaming.stream`.
        recipe: how they are quantized.
        finished: tells the groups that an earlier run has written already; one whose chain is not finished is written
            again, since nothing in a pack tells the steps that were folded.

    Raises:
        InputError: weights with NaN or infinities, or inputs that the recipe needs and nobody collected; the message
            names the layer.
    """
    for groups, inputs in blocks:
        for chain in chains(groups):
            if not all(map(finished, chain)):
                _quantize_chain(read, write, chain, recipe, inputs)
        del groups, inputs  # before the next block is computed


def weights_only(groups: Iterable[Group]) -> Iterable[Block]:
    """Return the blocks of a packing that goes by the weights alone."""
    return ((chain, {}) for chain in chains(tuple(groups)))


def _quantize_chain(
    read: Read,
    write: Callable[[Group, QuantizedGroup], None],
    chain: Sequence[Group],
    recipe: Recipe,
    inputs: Mapping[str, LayerInputs],
) -> None:
    changed: dict[str, Tensor] = {}  # weights of later groups
    still_to_come = {f"{layer.name}.weight" for group in chain for layer in group}

    def current(name: str) -> Tensor:
        return changed.pop(name) if name in changed else read(name)

    for group in chain:
        packed = quantize_group(current, group, recipe, inputs.get(group[0].name))
        folded = {name: FOLDS[role(name)](current(name), packed.folded_steps) for name in group[0].folded_into}
        changed |= {name: tensor for name, tensor in folded.items() if name in still_to_come}
        floats = {name: tensor for name, tensor in folded.items() if name not in still_to_come}
        write(group, replace(packed, tensors=packed.tensors | floats))


def quantize_group(read: Read, group: Group, recipe: Recipe, inputs: LayerInputs | None) -> QuantizedGroup:
    """Pack the linears that share one input, under one transform, of which the folded steps have been done before.

    Args:
        read: returns a parameter by its dotted name, floating.
        group: the layers.
        recipe: how they are quantized.
        inputs: what they read; None without calibration, and for layers that never run: those are rounded to the
            nearest whatever the recipe says, since GPTQ has no inputs to go by.

    Raises:
        InputError: as in `quantize`.
    """
    weights = read_weights(read, group)
    return pack_group(group, weights, recipe, prepare(read, group, weights, recipe, inputs))


def read_weights(read: Read, group: Group) -> list[Tensor]:
    """Read the weights of a group's layers, each [N, K] float32.

    Raises:
        InputError: one holds a NaN or an infinity.
    """
    return [_read_weight(read, layer.name) for layer in group]


def prepare(
    read: Read, group: Group, weights: Sequence[Tensor], recipe: Recipe, inputs: LayerInputs | None
) -> Prepared:
    """Find out what does not depend on the bits of the weights, their scale groups and their clip.

    Args:
        read: as in `quantize_group`; of use where the transform must serve other layers, too.
        group: the layers.
        weights: of `read_weights`.
        recipe: how they are quantized.
        inputs: as in `quantize_group`.

    Raises:
        InputError: as in `quantize`.
    """
    lead = group[0]
    with _named(lead):
        served = [_read_weight(read, name) for name in lead.rotated_alike] or weights
        transform = build_transform(lead, served, recipe, inputs)
        scale = _static_scale(lead, transform, recipe, inputs)
        return Prepared(transform, scale, _hessian_factor(lead, transform, recipe, inputs, scale))


def pack_group(group: Group, weights: Sequence[Tensor], recipe: Recipe, prepared: Prepared) -> QuantizedGroup:
    """Round the weights of a group; arguments as in `prepare`, and what that returned.

    Raises:
        InputError: as in `quantize`.
    """
    lead, scale = group[0], prepared.scale
    folded, left = prepared.transform.split(lead.folded)
    packed = {f"{lead.name}.{key}": tensor for key, tensor in left.tensors().items()}
    errors = {}
    with _named(lead):
        for layer, weight in zip(group, weights, strict=True):
            turned = prepared.transform.weight(weight)
            tensors, errors[layer.name] = _pack_weight(layer, turned, recipe, prepared.factor)
            if scale is not None:
                tensors["input_scale"] = scale.clone()
            packed |= {f"{layer.name}.{key}": tensor for key, tensor in tensors.items()}
    return QuantizedGroup(packed, errors, folded)


@contextmanager
def _named(layer: Selected) -> Iterator[None]:
    """Let errors begin with the layer's name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{layer.name}: {error}") from error


def _read_weight(read: Read, layer: str) -> Tensor:
    weight = read(f"{layer}.weight").float()
    if not weight.isfinite().all():
        place = tuple((~weight.isfinite()).nonzero()[0].tolist())
        raise InputError(
            f"{layer}: its weight holds {float(weight[place])} at {list(place)}, so the checkpoint is damaged: "
            "get it again, or exclude this layer"
        )
    return weight


def _static_scale(layer: Selected, transform: Transform, recipe: Recipe, inputs: LayerInputs | None) -> Tensor | None:
    """Return the one step [1] of the group's activations, None where each token has its own or none ever comes."""
    if recipe.act_scale != "static" or not layer.executed:
        return None
    seen = required(inputs, "a static activation scale", "`act_scale='per_token'`")
    step = static_scale(transform.inputs(seen.sample.float()), recipe.act_percentile, layer.act_bits)
    return torch.tensor([step], device=seen.sample.device)


def _hessian_factor(
    layer: Selected, transform: Transform, recipe: Recipe, inputs: LayerInputs | None, scale: Tensor | None
) -> HessianFactor | None:
    """Return what GPTQ needs, from inputs as they will be rounded; None where weights are rounded to the nearest."""
    if recipe.rounding != "gptq" or not layer.executed:
        return None
    seen = required(inputs, "GPTQ", "`rounding='rtn'`")
    rounded = torch.empty(seen.sample.shape, device=seen.sample.device)
    for rows, out in zip(*(torch.split(part, TOKENS_AT_ONCE) for part in (seen.sample, rounded)), strict=True):
        x = transform.inputs(rows.float())
        if layer.act_bits == 16:
            out.copy_(x)
        else:
            q, s = quantize_activation(x, scale=scale, bits=layer.act_bits)
            torch.mul(q, s, out=out)
    return hessian_factor(rounded)


def _pack_weight(
    layer: Selected, weight: Tensor, recipe: Recipe, factor: HessianFactor | None
) -> tuple[dict[str, Tensor], float]:
    """Round a transformed weight [N, K]; return its tensors by their names in the layer, and the relative error."""
    tensors: dict[str, Tensor] = {}
    if layer.block_out:
        tensors["row_rotation"] = row_rotation(weight, layer.block_out, recipe.rotation).float()
        weight = rotate_rows(weight, tensors["row_rotation"])
    numbers = (layer.weight_bits, recipe.clip, layer.group_size)
    if factor is None:
        integers, scales = round_weight(weight, *numbers)
    else:
        integers, scales = gptq_weight(weight, factor, *numbers)
    tensors["weight_scale"] = scales
    if layer.weight_bits == 4:
        tensors["weight_packed"] = pack_int4(integers)
        tensors["weight_shape"] = torch.tensor(weight.shape, dtype=torch.int64)
    else:
        tensors["weight"] = integers
    rounded = integers * column_scale(scales, layer.in_features, layer.group_size)
    norm = float(weight.norm())
    return tensors, float((weight - rounded).norm()) / norm if norm else 0.0


def pack_embedding(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round embedding rows [V, D] to int8 with one fp32 scale each [V, 1]: a lookup is `row * scale`."""
    return round_weight(rows, 8)
