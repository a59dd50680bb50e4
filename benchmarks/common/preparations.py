"""What neighbouring recipes have in common, found out once: greedy rotations and GPTQ take their time for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from vlapack import Recipe
from vlapack.plan.selected import Group, Selected
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import Prepared, Read, prepare

Prepare = Callable[[Read, Group, Sequence[Tensor], Recipe, LayerInputs | None], Prepared]


class Preparations:
    """Stands for `quantize.prepare`, as long as recipes differ in bits of weights, scale groups and clip only.

    The inputs must be the same for recipes of the same seed.

    Args:
        one: prepares one group; another than the library's is being tried out.
    """

    def __init__(self, one: Prepare = prepare) -> None:
        self._prepare = one
        self._common = ""
        self._found: dict[Selected, Prepared] = {}

    def __call__(
        self, read: Read, group: Group, weights: Sequence[Tensor], recipe: Recipe, inputs: LayerInputs | None
    ) -> Prepared:
        """Return what was prepared for the last recipes, or prepare it."""
        common = replace(recipe, weight_bits=4, group_size=None, clip="mse", overrides=()).digest()
        if common != self._common:
            self._common, self._found = common, {}
        like = replace(group[0], weight_bits=4, group_size=None)
        if like not in self._found:
            self._found[like] = self._prepare(read, group, weights, recipe, inputs)
        return self._found[like]
