"""The one walk that makes a float network a packed one: transform, round, write, one group of layers at a time.

It takes a `read` and a `write`, so that a folder on disk and a module in memory are one path, and never holds more
than one group in float. Linears that read the same input form a group (`select.groups`) and share one transform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlapack.calibrate import Statistics
from vlapack.errors import InputError
from vlapack.methods.permute import zigzag
from vlapack.methods.rotate import rotate_rows, rotation, row_rotation
from vlapack.methods.round import column_scale, largest_activation, round_weight
from vlapack.methods.smooth import smoothing_scale
from vlapack.methods.transform import Transform
from vlapack.ops.int4 import pack_int4
from vlapack.recipe.recipe import Recipe
from vlapack.select import Selected, groups

Read = Callable[[str], Tensor]
Group = tuple[Selected, ...]


@dataclass(frozen=True)
class PackedGroup:
    """The tensors of one group under their names in the pack, and each layer's relative rounding error."""

    tensors: dict[str, Tensor]
    errors: dict[str, float]
    """Layer → ‖W' − s·q‖ / ‖W'‖ (Frobenius) of the weight as it is rounded."""


def quantize(
    read: Read,
    write: Callable[[Group, PackedGroup], None],
    selected: Iterable[Selected],
    recipe: Recipe,
    statistics: Statistics,
    *,
    finished: Callable[[Group], bool] = lambda group: False,
) -> None:
    """Pack the selected layers, group by group, in the order in which they are given.

    Args:
        read: returns a parameter by its dotted name, floating.
        write: takes one finished group; it decides what becomes of the tensors.
        selected: what `select` chose.
        recipe: how it is quantized.
        statistics: what calibration found.
        finished: tells the groups that an earlier run has written already.

    Raises:
        InputError: weights with NaN or infinities, or statistics that the recipe needs and nobody measured; the
            message names the layer.
    """
    for group in groups(selected, recipe):
        if not finished(group):
            write(group, quantize_group(read, group, recipe, statistics))


def quantize_group(read: Read, group: Group, recipe: Recipe, statistics: Statistics) -> PackedGroup:
    """Pack the linears that share one input, under one transform."""
    weights = [read(f"{layer.name}.weight").float() for layer in group]
    try:
        transform = build_transform(group, weights, recipe, statistics.absmax.get(group[0].name))
        packed = {f"{group[0].name}.{key}": tensor for key, tensor in transform.tensors().items()}
        errors = {}
        for layer, weight in zip(group, weights, strict=True):
            tensors, errors[layer.name] = _pack_weight(layer, transform.weight(weight), recipe)
            if recipe.act_scale == "static" and layer.executed:
                tensors["input_scale"] = torch.tensor([_static_scale(layer, statistics)])
            packed |= {f"{layer.name}.{key}": tensor for key, tensor in tensors.items()}
    except InputError as error:
        raise InputError(f"{group[0].name}: {error}") from error
    return PackedGroup(packed, errors)


def build_transform(group: Group, weights: Sequence[Tensor], recipe: Recipe, absmax: Tensor | None) -> Transform:
    """Choose the change of basis for one input.

    Args:
        group: the layers that read it; their block sizes are equal, since their K is.
        weights: their weights [N, K], float32.
        recipe: which steps.
        absmax: the input's largest magnitude per channel [K]; None without calibration, when channels are ordered by
            their weights' energy.

    Returns:
        The transform exactly as the pack stores it, so that weights and inputs see the same numbers.

    Raises:
        InputError: the recipe smooths, the layers run, and there is no `absmax`.
    """
    layer, stacked = group[0], torch.cat(list(weights))
    scale = permutation = first = None
    if recipe.smoothing and layer.executed:
        if absmax is None:
            raise InputError(
                f"smoothing (smooth = {recipe.smooth}) needs the activations' magnitudes: calibrate, or set smooth to 0"
            )
        # In the pack's precision from the start: what follows is built on the numbers that are stored.
        scale = smoothing_scale(absmax, stacked.abs().amax(0), recipe.smoothing)
        scale = scale if scale is None else scale.float()
    ready = Transform(scale).weight(stacked)
    if recipe.rotates_first:
        blocks = rotation(recipe.rotation, ready, layer.block, shared=not recipe.distinct_blocks)
        first = None if blocks is None else blocks.float()
        ready = Transform(pre_rotation=first).weight(ready)
        absmax = None  # it is of channels that are mixed now: what is left to go by is the weights' energy
    if layer.permute:
        energy = ready.double().square().sum(0)
        importance = energy if absmax is None else absmax if scale is None else absmax / scale
        permutation = zigzag(importance, layer.block)
        ready = Transform(permutation=permutation).weight(ready)
    blocks = rotation(recipe.rotation, ready, layer.block, shared=not recipe.distinct_blocks)
    return Transform.from_tensors(Transform(scale, permutation, blocks, first).tensors())


def _pack_weight(layer: Selected, weight: Tensor, recipe: Recipe) -> tuple[dict[str, Tensor], float]:
    """Round a transformed weight [N, K]; return its tensors by their names in the layer, and the relative error."""
    tensors: dict[str, Tensor] = {}
    if layer.block_out:
        tensors["row_rotation"] = row_rotation(weight, layer.block_out, recipe.rotation).float()
        weight = rotate_rows(weight, tensors["row_rotation"])
    integers, scales = round_weight(weight, layer.weight_bits, recipe.clip, recipe.group_size)
    tensors["weight_scale"] = scales
    if layer.weight_bits == 4:
        tensors["weight_packed"] = pack_int4(integers)
        tensors["weight_shape"] = torch.tensor(weight.shape, dtype=torch.int64)
    else:
        tensors["weight"] = integers
    rounded = integers * column_scale(scales, layer.in_features, recipe.group_size)
    norm = float(weight.norm())
    return tensors, float((weight - rounded).norm()) / norm if norm else 0.0


def _static_scale(layer: Selected, statistics: Statistics) -> float:
    reach = statistics.reach.get(layer.name)
    if reach is None:
        raise InputError(f"static activation scales need calibration, and {layer.name} has none; give --calib DIR")
    return reach / largest_activation(layer.act_bits) if reach else 1.0


def pack_embedding(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round embedding rows [V, D] to int8 with one fp32 scale each [V, 1]: a lookup is `row * scale`."""
    return round_weight(rows.float(), 8)
