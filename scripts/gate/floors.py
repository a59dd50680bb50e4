"""The least time that a chunk could take on a card: its products and weights against the card's published ceilings.

Counted from the network's own list of linears and from what a recipe makes of each, layer after layer: a layer takes
the longer of its arithmetic and of reading its weights once, and layers do not overlap. Attention's two products count
as bf16. Left out, so that the floor stays one: activations, which fit caches; norms, rounding, launches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gate.peaks import Card
from vlapack.pi0.config import CONFIGS, Pi0Config
from vlapack.pi0.names import EXPERT, LLM, PROJECTOR, VISION, linears, never_executed, time_table
from vlapack.plan.select import select
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

CAMERAS = 2
PROMPT = 32
HORIZON = 10
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Call:
    """One product of a chunk.

    Args:
        operations: 2 · M · N · K.
        weight_bytes: what has to be read from memory.
        integer: whether it multiplies int8.
        times: how often a chunk does it.
    """

    operations: int
    weight_bytes: float
    integer: bool
    times: int = 1

    def seconds(self, card: Card) -> float:
        """Return the least time of all of them on a card."""
        rate = card.int8 if self.integer else card.bf16
        return self.times * max(self.operations / (rate * 1e12), self.weight_bytes / (card.memory * 1e9))


def architecture() -> Pi0Config:
    """Return π0.5 for LIBERO, with a horizon of 10."""
    return replace(CONFIGS["pi05_libero"], action_horizon=HORIZON)


def floor(card: Card, recipe: Recipe | None) -> float:
    """Return the least milliseconds of a chunk: π0.5, two cameras, 32 tokens of prompt, a horizon of 10, ten steps.

    Args:
        card: where.
        recipe: how the network is packed; None: all of it in bf16.
    """
    return 1e3 * sum(call.seconds(card) for call in calls(architecture(), recipe))


def recipes() -> dict[str, Recipe | None]:
    """Return what floors are given for: the float network, all packed layers at 8 bits, and the preset `full`."""
    full = preset("full")
    return {"bf16": None, "full at 8 bits": replace(full, weight_bits=8), "full": full}


def calls(config: Pi0Config, recipe: Recipe | None, *, cameras: int = CAMERAS) -> Iterator[Call]:
    """Yield every product that a chunk cannot leave out."""
    packed = {}
    if recipe is not None:
        packed = {layer.name: layer.weight_bits for layer in select(linears(config), recipe)}
    pictures = cameras * config.vision.num_patches
    prefix = pictures + PROMPT
    unread = never_executed(config) | time_table(config)[0]
    rows_of = {VISION: pictures, PROJECTOR: pictures, LLM: prefix, EXPERT: config.suffix_length}
    for name, (outputs, inputs) in linears(config).items():
        if name in unread:
            continue
        part = next((part for part in rows_of if name.startswith(f"{part}.")), None)
        rows = config.action_horizon if part is None else rows_of[part]
        bits = packed.get(name, 16)
        scales = _SCALE_BYTES * outputs if bits < 16 else 0
        times = config.num_steps if part in (None, EXPERT) else 1
        yield Call(2 * rows * outputs * inputs, outputs * inputs * bits / 8 + scales, bits < 16, times)
    vision, llm, expert = config.vision, config.llm, config.expert
    yield _attention(vision.num_patches, vision.num_patches, vision.width, cameras * vision.depth)
    # The last layer's queries of the prefix feed nothing that is read.
    yield _attention(prefix, prefix, llm.num_heads * llm.head_dim, llm.depth - 1)
    suffix = config.suffix_length
    yield _attention(suffix, prefix + suffix, expert.num_heads * expert.head_dim, expert.depth * config.num_steps)


def _attention(queries: int, keys: int, width: int, times: int) -> Call:
    return Call(2 * 2 * queries * keys * width, 0, False, times)
