"""What `vlapack inspect` says below its tables, note by note."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from vlapack.console import size
from vlapack.plan.selected import Selected
from vlapack.recipe.presets import PRESETS
from vlapack.recipe.recipe import Recipe

if TYPE_CHECKING:
    from vlapack.commands.inspect_network import InspectedNetwork


def notes_on(recipe: Recipe, network: InspectedNetwork) -> Iterator[str]:
    """Say what the tables of `inspect` do not: what is mixed, shrunk, folded, left out, idle.

    Of the guide's own recipes, also where the guide's numbers are wrong.
    """
    selected = network.select(recipe)
    yield from _mix(recipe, selected, network)
    shrunk = Counter(note for layer in selected for note in _shrunk(layer, recipe))
    for what, count in shrunk.items():
        yield f"{what} ({count} ×)"
    yield from _left(selected)
    if heads := network.head_bytes:
        yield f"the file leaves out {size(heads)} of vocabulary heads, which inference never reads"
    if idle := len(network.idle):
        packed = sum(not layer.executed for layer in selected)
        yield f"inference never calls {idle} layers: {packed} of them are packed without calibration, none is held"
    if recipe.balances:
        yield "ATM/OHB scale rows of the expert's q_proj and o_proj: measured by `quantize`, no byte and no time added"
    if recipe.method == "guide":
        yield (
            "method guide: every layer has its own transform, also where q, k and v (gate and up) read one input; its "
            f"smoothing constant (smooth = {recipe.smooth}) has no effect, as in the guide"
        )
        yield _guide(network)


def _left(selected: list[Selected]) -> Iterator[str]:
    """Say which steps cost nothing at run time, and why the others do."""
    kinds = {layer.name: f"{layer.part} {layer.name.rpartition('.')[2]}" for layer in selected}
    folded = Counter(f"{kinds[layer.name]} {' and '.join(layer.folded)}" for layer in selected if layer.folded)
    if folded:
        yield f"folded into the layer before, at no cost: {', '.join(f'{w} ({n} ×)' for w, n in folded.items())}"
    # What differs by the number of the layer alone is one reason.
    kept = {layer.name: re.sub(r"\blayers\.\d+", "layers.*", layer.kept) for layer in selected if layer.kept}
    for reason in dict.fromkeys(kept.values()):
        where = Counter(kinds[name] for name, of_layer in kept.items() if of_layer == reason)
        yield f"computed at run time for {', '.join(f'{w} ({n} ×)' for w, n in where.items())}: {reason}"


def _shrunk(layer: Selected, recipe: Recipe) -> Iterator[str]:
    kind = layer.name.rpartition(".")[2]
    wanted_out = recipe.block_out or recipe.block
    if 0 < layer.block < recipe.block and "rotation" not in layer.folded:
        yield f"{layer.part} {kind}: block {recipe.block} → {layer.block}, which divides K = {layer.in_features}"
    if 0 < layer.block_out < wanted_out:
        yield f"{layer.part} {kind}: row block {wanted_out} → {layer.block_out}, which divides N = {layer.out_features}"


def _guide(network: InspectedNetwork) -> str:
    packed = {name: network.by_layer(PRESETS[name]) for name in ("dit", "llm", "full")}
    everywhere = [size.layer.part for size in packed["full"].layers]
    vision, projector = everywhere.count("vision"), everywhere.count("projector")
    saved = ", ".join(f"{100 * sizes.saved_fraction:.1f} % ({name})" for name, sizes in packed.items())
    return (
        "the DuQuant scripts guide counts ~108 vision layers and ~360 in all and promises savings of 20 % (DiT), "
        f"40 % (LLM), 60 % (all); this network has {vision} and {len(everywhere)} "
        f"({len(everywhere) - projector} in the transformers, and the projector), and the presets save {saved}"
    )


def _mix(recipe: Recipe, selected: list[Selected], network: InspectedNetwork) -> Iterator[str]:
    """Name a mix of bits, which layers differ from the recipe's, and what memory they cost."""
    plain = replace(recipe, overrides=())
    usual = f"W{recipe.weight_bits}" if recipe.group_size is None else f"W{recipe.weight_bits}g{recipe.group_size}"
    other = [layer for layer in selected if layer.bits != f"{usual}A{recipe.act_bits}"]
    if not other or recipe.weight_bits == 16:
        return
    kinds = Counter(f"{layer.part} {layer.name.rpartition('.')[2]} {layer.bits}" for layer in other)
    held, without = (network.pack(each).held for each in (recipe, plain))
    yield (
        f"{bits_of(selected)}: {', '.join(f'{what} ({count} ×)' for what, count in kinds.items())}; held changes by "
        f"{(held - without) / 1e6:+.1f} MB ({held / without - 1:+.1%}) against {usual}A{recipe.act_bits} throughout"
    )


def bits_of(selected: list[Selected]) -> str:
    """Return the bits of all layers in one word: `W4A8`, or `W4/8A8` where there are both."""
    weights = sorted({(layer.weight_bits, layer.group_size or 0) for layer in selected})
    acts = sorted({layer.act_bits for layer in selected})
    spelled = (f"{bits}g{size}" if size else str(bits) for bits, size in weights)
    return f"W{'/'.join(spelled)}A{'/'.join(map(str, acts))}"
