"""Which steps of a transform are done before the layer that needs them, at no cost when the network runs.

A transform reorders a layer's input channels, say. Where they are the rows of a layer before, that one's rows can be
stored in the new order. `plan` says which steps go that way, `chains` which layers are therefore packed one after the
other; `methods.fold` does it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from vlapack.plan.selected import Group
from vlapack.plan.wiring import Producer, producer_of
from vlapack.recipe.recipe import Recipe

if TYPE_CHECKING:
    from vlapack.plan.selected import Selected

Chain = tuple[Group, ...]
"""Groups that are packed one after another: each before those whose rows take steps of its transform."""


def plan(
    selected: Iterable[Selected],
    recipe: Recipe,
    *,
    linears: Collection[str],
    never_executed: Collection[str],
    head_dim: int | None,
) -> list[Selected]:
    """Say of each layer which steps of its transform are folded, into which tensors, and why the others are not.

    A factor for each channel (smoothing) folds into norms, which are then stored in fp32, and into packed layers; a
    reordering into any layer, since it rounds nothing. Neither waits for the other: they can change places. A rotation
    folds into the values that attention mixes. It costs nothing there, so it takes a whole head as its block, within
    which there is nothing left to reorder.

    Args:
        selected: the layers that `recipe` packs.
        recipe: how.
        linears: the names of every linear of the network.
        never_executed: names of those that inference never calls.
        head_dim: width of one attention head of language model and expert; None if it is not known.
    """
    layers = list(selected)
    if not recipe.fold:
        return layers
    settled = {layer.name for layer in layers} | set(never_executed)

    def planned(layer: Selected) -> Selected:
        before = producer_of(layer.name, linears)
        stays = {step: _obstacle(step, recipe, before, settled, head_dim) for step in _steps(layer, recipe)}
        folded = tuple(step for step, obstacle in stays.items() if obstacle is None)
        if before is not None and "rotation" in folded:
            assert head_dim is not None
            layer = replace(layer, block=head_dim, permute=False, rotated_alike=before.rotated_alike)
            folded, stays = ("rotation",), {}
        kept = "; ".join(dict.fromkeys(obstacle for obstacle in stays.values() if obstacle and layer.executed))
        return replace(layer, folded=folded, folded_into=before.tensors if before and folded else (), kept=kept)

    return [planned(layer) for layer in layers]


def _steps(layer: Selected, recipe: Recipe) -> Iterator[str]:
    """Name the steps of a layer's transform as it would be without folding."""
    if recipe.smoothing and layer.executed:
        yield "smooth"
    if recipe.rotates_first:
        yield "pre_rotation"
    if layer.permute:
        yield "permutation"
    if recipe.rotation != "none":
        yield "rotation"


def _obstacle(
    step: str, recipe: Recipe, before: Producer | None, settled: Collection[str], head_dim: int | None
) -> str | None:
    """Return why a step is not folded, None where it is."""
    if before is None:
        return "nothing that could take a step is known to make its input"
    if step not in before.steps:
        return before.limit
    if step == "permutation":
        return "its first rotation comes before the permutation, and stays" if recipe.rotates_first else None
    missing = [name for name in before.together if name not in settled]
    if missing:
        return f"{', '.join(missing)} would have to be packed too"
    if step == "rotation":
        if recipe.rotation == "greedy":
            return "a greedy rotation follows the inputs of one stack, and must here serve both"
        if recipe.smoothing or recipe.rotates_first:
            return "another step comes before the rotation, and stays"
        if head_dim is None or head_dim & (head_dim - 1):
            return f"a head of {head_dim or 'unknown'} channels has no Hadamard rotation"
    return None


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
