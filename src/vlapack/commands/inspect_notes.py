"""What `vlapack inspect` says below its tables, note by note."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vlapack.plan.selected import Selected
from vlapack.recipe.presets import PRESETS
from vlapack.recipe.recipe import Recipe

if TYPE_CHECKING:
    from vlapack.plan.sizes import Sizes

Pack = Callable[[Recipe], tuple[list[Selected], "Sizes"]]
"""Selects a recipe's layers in the network, and adds up the bytes."""


def notes_on(recipe: Recipe, selected: list[Selected], pack: Pack, idle: Sequence[str]) -> Iterator[str]:
    """Say what the tables of `inspect` do not: what is mixed, shrunk, folded, idle, and what the guide promises.

    Args:
        recipe: that is inspected.
        selected: its layers.
        pack: of the network that is inspected.
        idle: that network's linears which inference never calls.
    """
    yield from _mix(recipe, selected, pack)
    shrunk = Counter(note for layer in selected for note in _shrunk(layer, recipe))
    for what, count in shrunk.items():
        yield f"{what} ({count} ×)"
    yield from _left(selected)
    if idle:
        packed = sum(not layer.executed for layer in selected)
        yield (
            f"{len(idle)} layers never run, because nothing reads their output: {', '.join(idle)}; {packed} of them "
            "are packed, by their weights alone, and none is held in memory"
        )
    if recipe.method == "guide":
        yield (
            "method guide: every layer has its own transform, also where q, k and v (gate and up) read one input; its "
            f"smoothing constant (smooth = {recipe.smooth}) has no effect, as in the guide"
        )
    if recipe.balances:
        yield "ATM/OHB scale rows of the expert's q_proj and o_proj: measured by `quantize`, no byte and no time added"
    yield _guide(pack)


def _left(selected: list[Selected]) -> Iterator[str]:
    """Say which steps cost nothing at run time, and why the others do."""
    kinds = {layer.name: f"{layer.part} {layer.name.rpartition('.')[2]}" for layer in selected}
    folded = Counter(f"{kinds[layer.name]} {' and '.join(layer.folded)}" for layer in selected if layer.folded)
    if folded:
        yield f"folded into what stands before, at no cost: {', '.join(f'{w} ({n} ×)' for w, n in folded.items())}"
    # What differs by the number of the layer alone is one reason.
    kept = {layer.name: re.sub(r"\blayers\.\d+", "layers.*", layer.kept) for layer in selected if layer.kept}
    for reason in dict.fromkeys(kept.values()):
        where = Counter(kinds[name] for name, of_layer in kept.items() if of_layer == reason)
        yield f"left at run time for {', '.join(f'{w} ({n} ×)' for w, n in where.items())}: {reason}"


def _shrunk(layer: Selected, recipe: Recipe) -> Iterator[str]:
    kind = layer.name.rpartition(".")[2]
    wanted_out = recipe.block_out or recipe.block
    if 0 < layer.block < recipe.block and "rotation" not in layer.folded:
        yield f"{layer.part} {kind}: block {recipe.block} → {layer.block}, which divides K = {layer.in_features}"
    if 0 < layer.block_out < wanted_out:
        yield f"{layer.part} {kind}: row block {wanted_out} → {layer.block_out}, which divides N = {layer.out_features}"


def _guide(pack: Pack) -> str:
    packed = {name: pack(PRESETS[name]) for name in ("dit", "llm", "full")}
    everywhere = [layer.part for layer in packed["full"][0]]
    vision, projector = everywhere.count("vision"), everywhere.count("projector")
    saved = ", ".join(f"{100 * sizes.saved_fraction:.1f} % ({name})" for name, (_, sizes) in packed.items())
    return (
        "the DuQuant scripts guide counts ~108 vision layers and ~360 in all and promises savings of 20 % (DiT), "
        f"40 % (LLM), 60 % (all); in this network there are really {vision} and {len(everywhere)} "
        f"({len(everywhere) - projector} inside the transformers, and the projector), and the presets save {saved}"
    )


def _mix(recipe: Recipe, selected: list[Selected], pack: Pack) -> Iterator[str]:
    """Name a mix of bits, which layers differ from the recipe's, and what memory they cost."""
    plain = replace(recipe, overrides=())
    usual = f"W{recipe.weight_bits}" if recipe.group_size is None else f"W{recipe.weight_bits}g{recipe.group_size}"
    other = [layer for layer in selected if layer.bits != f"{usual}A{recipe.act_bits}"]
    if not other or recipe.weight_bits == 16:
        return
    kinds = Counter(f"{layer.part} {layer.name.rpartition('.')[2]} {layer.bits}" for layer in other)
    held, without = (pack(each)[1].held for each in (recipe, plain))
    yield (
        f"{bits_of(selected)}: {', '.join(f'{what} ({count} ×)' for what, count in kinds.items())}; in memory this is "
        f"{(held - without) / 1e6:+.1f} MB ({held / without - 1:+.1%}) against {usual}A{recipe.act_bits} throughout"
    )


def bits_of(selected: list[Selected]) -> str:
    """Return the bits of all layers in one word: `W4A8`, or `W4/8A8` where there are both."""
    weights = sorted({(layer.weight_bits, layer.group_size or 0) for layer in selected})
    acts = sorted({layer.act_bits for layer in selected})
    spelled = (f"{bits}g{size}" if size else str(bits) for bits, size in weights)
    return f"W{'/'.join(spelled)}A{'/'.join(map(str, acts))}"
