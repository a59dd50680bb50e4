"""One selected linear, the part of the network that it belongs to, and the groups that share an input."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vlapack.plan.wiring import shared_inputs
from vlapack.recipe.recipe import Recipe

Part = Literal["vision", "projector", "llm", "expert", "adarms", "action", "embedding"]


_PARTS: tuple[tuple[re.Pattern[str], Part], ...] = (
    (re.compile(r"(^|\.)(lm_head|embed_tokens)(\.|$)"), "embedding"),
    (re.compile(r"(^|\.)vision_tower\."), "vision"),
    (re.compile(r"(^|\.)multi_modal_projector\."), "projector"),
    (re.compile(r"(^|\.)language_model\."), "llm"),
    (re.compile(r"(^|\.)gemma_expert\..*norm\.dense(\.|$)"), "adarms"),
    (re.compile(r"(^|\.)gemma_expert\."), "expert"),
)


@dataclass(frozen=True)
class Selected:
    """One linear that a recipe quantizes; its weight is [out_features, in_features] = [N, K]."""

    name: str
    part: Part
    in_features: int
    out_features: int
    weight_bits: int
    """4 or 8."""
    group_size: int | None
    """Input channels per weight scale; None: one scale per output channel."""
    act_bits: int
    """4, 8 or 16."""
    block: int
    """Input channels per block of permutation and rotation, a divisor of K; 0: the recipe has neither."""
    block_out: int
    """Rows per block of the row rotation, a divisor of N; 0: no row rotation."""
    block_shrunk: bool
    """Whether `block` or `block_out` is smaller than the recipe's, because that does not divide K or N."""
    permute: bool
    row_rot: str
    """`0` or `restore`."""
    executed: bool
    """False: inference never calls it, so it is quantized by its weights alone and not held in memory."""
    folded: tuple[str, ...] = ()
    """The steps of its transform that are done before it: of `smooth`, `permutation`, `rotation`."""
    folded_into: tuple[str, ...] = ()
    """The tensors that do them."""
    rotated_alike: tuple[str, ...] = ()
    """The layers that a folded rotation must serve together."""
    kept: str = ""
    """Why the steps that are left when it runs are not folded."""

    @property
    def bits(self) -> str:
        """The bits of weights and activations, and channels per weight scale if they share one: `W4A8`, `W4g128A8`."""
        groups = "" if self.group_size is None else f"g{self.group_size}"
        return f"W{self.weight_bits}{groups}A{self.act_bits}"


def part_of(name: str) -> Part:
    """Return the part of the network that a parameter or layer belongs to.

    What lies outside vision tower, projector, LLM and expert (action and time projections, or anything in a network
    that we do not know) is `action`.
    """
    return next((part for pattern, part in _PARTS if pattern.search(name)), "action")


def groups(selected: Iterable[Selected], recipe: Recipe) -> list[tuple[Selected, ...]]:
    """Return the layers in groups that share one transform, which the group's first layer stores.

    Linears that read one input form a group if the recipe shares transforms; a layer that never runs is grouped only
    with others that never run, because it has no activation statistics and is not held in memory.
    """
    by_key: dict[tuple[str, bool], list[Selected]] = {}
    for layer in selected:
        key = shared_inputs(layer.name) if recipe.shares_transform else layer.name
        by_key.setdefault((key, layer.executed), []).append(layer)
    return [tuple(group) for group in by_key.values()]


def spellings(name: str) -> tuple[str, ...]:
    """Return `name` as `paligemma.model.X` and as `paligemma.X`; both mean the same layer."""
    long = re.sub(
        r"\bpaligemma\.(?=(?:language_model|vision_tower|multi_modal_projector)(?:\.|$))", "paligemma.model.", name
    )
    return (long, long.replace("paligemma.model.", "paligemma."))


Group = tuple[Selected, ...]
