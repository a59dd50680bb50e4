"""A float network in memory becomes a packed one by the same walk that makes packs, without a folder in between."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from vlapack.calibrate import LayerInputs
from vlapack.linear import PackedLinear
from vlapack.quantize import Group, PackedGroup, quantize
from vlapack.recipe.recipe import Recipe
from vlapack.select import groups, select


def quantized(model: nn.Module, recipe: Recipe, inputs: Mapping[str, LayerInputs]) -> nn.Module:
    """Return a copy of `model` whose layers are packed.

    Args:
        model: the float network; it stays as it is.
        recipe: which of its linears, and how.
        inputs: of every one of these.
    """
    packed = copy.deepcopy(model)
    linears = {n: (m.out_features, m.in_features) for n, m in model.named_modules() if isinstance(m, nn.Linear)}

    def write(group: Group, result: PackedGroup) -> None:
        (layer,) = group  # nothing is known of which layers of such a model share an input
        tensors = {name.rpartition(".")[2]: tensor for name, tensor in result.tensors.items()}
        if "input_scale" in tensors:
            tensors["act_scale"] = tensors.pop("input_scale")
        made = PackedLinear.from_tensors(
            tensors,
            weight_bits=layer.weight_bits,
            group_size=recipe.group_size,
            act_bits=layer.act_bits,
            act_scale=recipe.act_scale,
        )
        made.bias = model.get_submodule(layer.name).bias
        packed.set_submodule(layer.name, made)

    quantize(model.get_parameter, write, [(groups(select(linears, recipe), recipe), inputs)], recipe)
    return packed
