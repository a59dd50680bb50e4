"""A float network in memory becomes a packed one by the same steps that make packs, without a folder in between."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from common.preparations import Preparations, Prepare
from torch import nn

from vlapack import Recipe
from vlapack.linear import PackedLinear
from vlapack.plan.select import select
from vlapack.plan.selected import Group, groups
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import QuantizedGroup, pack_group, prepare, read_weights


class InPlace:
    """Packs one network by many recipes; what neighbouring ones have in common is found out once.

    Args:
        model: the float network; it stays as it is.
        one: prepares one group; another than the library's is being tried out.
    """

    def __init__(self, model: nn.Module, one: Prepare = prepare) -> None:
        self._model = model
        self._linears = {
            n: (m.out_features, m.in_features) for n, m in model.named_modules() if isinstance(m, nn.Linear)
        }
        self._prepare = Preparations(one)

    def quantized(self, recipe: Recipe, inputs: Mapping[str, LayerInputs]) -> nn.Module:
        """Return a copy of the model whose layers are packed.

        Args:
            recipe: which of its linears, and how.
            inputs: of every one of these; they are the same for recipes of the same seed.
        """
        read, packed = self._model.get_parameter, copy.deepcopy(self._model)
        for group in groups(select(self._linears, recipe), recipe):
            weights, name = read_weights(read, group), group[0].name
            prepared = self._prepare(read, group, weights, recipe, inputs[name])
            made = self._layer(group, pack_group(group, weights, recipe, prepared), recipe)
            packed.set_submodule(name, made)
        return packed

    def _layer(self, group: Group, result: QuantizedGroup, recipe: Recipe) -> PackedLinear:
        (layer,) = group  # nothing is known of which layers of such a model share an input
        tensors = {name.rpartition(".")[2]: tensor for name, tensor in result.tensors.items()}
        made = PackedLinear.from_tensors(
            tensors,
            weight_bits=layer.weight_bits,
            group_size=layer.group_size,
            act_bits=layer.act_bits,
            act_scale=recipe.act_scale,
        )
        made.bias = self._model.get_submodule(layer.name).bias
        return made
