"""Which first steps of a transform are done before the layer that needs them, at no cost when the network runs.

A transform reorders a layer's input channels, say. Where they are the rows of a layer before, that one's rows can be
stored in the new order. `plan` says which steps go that way, `chains` which layers must therefore be packed together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from vlapack.recipe.recipe import Recipe
from vlapack.wiring import source

if TYPE_CHECKING:
    from vlapack.select import Selected

Group = tuple["Selected", ...]
Chain = tuple[Group, ...]
"""Groups that are packed one after another: each before those whose rows take steps of its transform."""


def plan(selected: Iterable[Selected], recipe: Recipe) -> list[Selected]:
    """Say of each layer which steps of its transform are folded, and into which tensors.

    A reordering folds into any layer, packed or float, if nothing but a factor for each channel comes before it (the
    two can change places).
    """
    return [_folded(layer, recipe) for layer in selected] if recipe.fold else list(selected)


def _folded(layer: Selected, recipe: Recipe) -> Selected:
    steps = []
    before = source(layer.name)
    if before is None:
        return layer
    if layer.permute and not recipe.rotates_first and "permutation" in before.steps:
        steps.append("permutation")
    return replace(layer, folded=tuple(steps), folded_into=before.tensors) if steps else layer


def chains(groups: Sequence[Group]) -> list[Chain]:
    """Return the groups in chains, which are in the order of their first groups."""
    place = {layer.name: number for number, group in enumerate(groups) for layer in group}
    readers: dict[int, set[int]] = {number: set() for number in range(len(groups))}
    for number, group in enumerate(groups):
        for tensor in group[0].folded_into:
            if (layer := tensor.rpartition(".")[0]) in place:
                readers[place[layer]].add(number)
    chain_of: dict[int, list[int]] = {}
    for number in TopologicalSorter(readers).static_order():  # readers first
        joined = {id(chain_of[reader]): chain_of[reader] for reader in sorted(readers[number])}
        chain = [*(member for chain in joined.values() for member in chain), number]
        chain_of |= dict.fromkeys(chain, chain)
    found = {min(chain): tuple(groups[number] for number in chain) for chain in chain_of.values()}
    return [found[first] for first in sorted(found)]


def rewritten(selected: Sequence[Selected]) -> set[str]:
    """Return the float tensors of a pack that are not as the parent holds them, because steps were folded into them."""
    packed = {f"{layer.name}.weight" for layer in selected}
    return {tensor for layer in selected for tensor in layer.folded_into} - packed
