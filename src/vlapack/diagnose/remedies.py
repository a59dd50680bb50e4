"""What might help, tried one by one on recorded data.

A remedy is a recipe and the mixture of layers that a pack of it would have. Its error is measured as `vlapack compare`
measures a pack's, on observations that calibrated nothing; its price is the bytes that a policy then holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlapack.diagnose.tried import Tried, clearly_better
from vlapack.diagnose.workbench import Workbench
from vlapack.plan.selected import Part
from vlapack.policy.differences import quantiles
from vlapack.recipe.choice import RECIPES, Choice, as_choice
from vlapack.recipe.recipe import Recipe
from vlapack.tune.allocate import FLOAT_BITS, Chosen
from vlapack.tune.search import guarded

FINE_BITS = 8
GROUP = 32
MOST_TRIALS = 6
"""Numbers of layers that are tried with more bits."""
MARGIN = 2
"""How many times more of them are packed at once than it is forecast to take."""
PARTS: Mapping[Part, str] = {
    "vision": r"(^|\.)vision_tower\.",
    "projector": r"(^|\.)multi_modal_projector\.",
    "llm": r"(^|\.)language_model\.",
    "expert": r"(^|\.)gemma_expert\.",
}
"""Part → the pattern that an override leaves it float by."""

Unit = tuple[str, ...]
"""Layers that read one input."""
Gain = Callable[[Unit], float]
"""What a change to a unit takes from the squared error."""


@dataclass(frozen=True)
class Share:
    """What one layer adds to the squared error of the chunk, to first order.

    Attributes:
        whole: all of it.
        weights: with activations that are not rounded.
    """

    whole: float
    weights: float

    @property
    def activations(self) -> float:
        """What the rounding of activations adds."""
        return max(self.whole - self.weights, 0.0)


class Trials:
    """Tries remedies.

    Args:
        bench: puts layers together.
        kept: numbers of the observations that errors are measured on.
        target: for the median error.
        shares: of each layer.
        deviations: of the pack's own chunks.
    """

    def __init__(
        self,
        bench: Workbench,
        *,
        kept: Sequence[int],
        target: float,
        shares: Mapping[str, Share],
        deviations: np.ndarray,
    ) -> None:
        """Try nothing yet."""
        self._bench = bench
        self._kept = kept
        self._target = target
        self._shares = shares
        self._deviations = deviations
        self._median = float(np.median(deviations))
        self._recalibrates = False
        self.tried: list[Tried] = []

    def again(self, damaged: Sequence[str]) -> None:
        """Pack damaged layers again, as the recipe has them; what is tried after that builds upon it."""
        self._bench.own = {**self._bench.own, **self._bench.again(damaged)}
        self._shares = {**self._shares, **dict.fromkeys(damaged, Share(0.0, 0.0))}
        what = damaged[0] if len(damaged) == 1 else f"the {len(damaged)} damaged layers"
        self._try("again", f"pack {what} again, by the same recipe", self._bench.recipe, self._bench.own)

    def more_calibration(self, observations: Sequence[Mapping[str, Any]], *, expected: bool) -> None:
        """Pack everything again, calibrated on the data; where that does something, all else builds upon it."""
        recipe = replace(self._bench.recipe, calib_steps=len(observations))
        own = self._bench.recalibrated(observations)
        self._recalibrates = True
        found = self._try("calibration", f"calibrate on {len(observations)} observations of the data", recipe, own)
        self._recalibrates = clearly_better(self._deviations, found.deviations, expected=expected)
        if self._recalibrates:
            self._bench.adopt(own, observations)
            self._median = found.median

    def activations(self) -> None:
        """Round activations to more bits, or not at all; a scale per token instead of a static one."""
        recipe, own = self._bench.recipe, {layer.selected.act_bits for layer in self._bench.unfolded.layers.values()}
        if recipe.act_scale == "static" and own == {recipe.act_bits}:
            per_token = replace(recipe, act_scale="per_token")
            name = f"one scale per token for {recipe.act_bits}-bit activations"
            self._try("per_token", name, per_token, self._bench.with_activations(recipe.act_bits))
        for bits in (8, 16):
            if min(own) < bits and max(own) <= bits:
                name = f"{bits}-bit activations" if bits < FLOAT_BITS else "activations that are not rounded (A16)"
                self._try(f"act_bits_{bits}", name, _with_activations(recipe, bits), self._bench.with_activations(bits))

    def parts(self) -> None:
        """Leave out one part of the network after another."""
        packed = {layer.selected.part for layer in self._bench.unfolded.layers.values()}
        for part, pattern in PARTS.items():
            if part not in packed or len(packed) == 1:
                continue
            floats = {name for name, layer in self._bench.unfolded.layers.items() if layer.selected.part == part}
            bits = {name: choice for name, choice in self._bench.own.items() if name not in floats}
            recipe = _overridden(self._bench.recipe, [(pattern, FLOAT_BITS)])
            self._try(f"without_{part}", f"leave the {part} float", recipe, bits)

    def bits(self) -> None:
        """Give the worst layers 8 bits, as few as it takes, or leave them float; then try groups in their place."""
        fine = self._worst_first(self._gain)
        count = self._fewest(fine, self._raise, self._gain, self._pack_finer)
        if count is None:
            floats = self._worst_first(self._whole)
            self._fewest(floats, self._leave, self._whole)
            return
        own = self._bench.unfolded.layers
        grouped = [name for unit in fine[:count] for name in unit if own[name].selected.weight_bits < FINE_BITS]
        if grouped and all((own[name].selected.group_size or GROUP + 1) > GROUP for name in grouped):
            choices: dict[str, Chosen] = {name: self._raised(name, groups=True) for name in grouped}
            self._try_choices("groups", f"groups of {GROUP} in {_layers(grouped)}", choices)

    def _fewest(
        self,
        order: Sequence[Unit],
        attempt: Callable[[Sequence[Unit]], Tried],
        gain: Gain,
        prepare: Callable[[Sequence[Unit]], object] = lambda units: None,
    ) -> int | None:
        """Try how many units it takes, the worst first; return the fewest, None where even all of them do not help.

        `prepare` is told the units of which it will be some.
        """
        low, high = 0, len(order) + 1
        count = self._forecast(order, gain)
        prepare(order[: MARGIN * count])
        for _ in range(MOST_TRIALS):
            if not low < count < high:
                break
            if attempt(order[:count]).helps:
                high = count
            else:
                low = count
            count = (low + high) // 2 if high <= len(order) else min(2 * low, len(order))
        return high if high <= len(order) else None

    def _forecast(self, order: Sequence[Unit], gain: Gain) -> int:
        """Return how many units it may take, if squared errors are in proportion to what is predicted."""
        total = sum(share.whole for share in self._shares.values())
        left, bound = total, total * (self._target / self._median) ** 2
        for count, unit in enumerate(order, 1):
            left -= gain(unit)
            if left <= bound:
                return count
        return len(order)

    def _pack_finer(self, units: Sequence[Unit]) -> dict[str, Chosen]:
        """Pack layers with more bits, all at once: the float network runs each time that something is packed."""
        choices: dict[str, Chosen] = {
            name: self._raised(name) for unit in units for name in unit if self._can_raise(name)
        }
        self._bench.packed_here(choices, choices)
        return choices

    def _raise(self, units: Sequence[Unit]) -> Tried:
        choices = self._pack_finer(units)
        return self._try_choices("bits", f"{FINE_BITS} bits for {_layers(list(choices))}", choices)

    def _leave(self, units: Sequence[Unit]) -> Tried:
        names = [name for unit in units for name in unit]
        bits = {name: choice for name, choice in self._bench.own.items() if name not in names}
        pairs: list[tuple[str, Chosen]] = [(f"^{re.escape(name)}$", FLOAT_BITS) for name in names]
        return self._try("float", f"leave {_layers(names)} float", _overridden(self._bench.recipe, pairs), bits)

    def _worst_first(self, gain: Gain) -> list[Unit]:
        """Return the units that something can be gained from, by what it is for each weight."""
        units = [unit for unit in self._bench.units() if gain(unit) > 0]
        return sorted(units, key=lambda unit: -gain(unit) / self._weights(unit))

    def _weights(self, unit: Unit) -> int:
        layers = [self._bench.unfolded.layers[name].selected for name in unit]
        return sum(layer.in_features * layer.out_features for layer in layers)

    def _whole(self, unit: Unit) -> float:
        """Return what goes of the squared error if a unit is left float."""
        return sum(self._shares[name].whole for name in unit)

    def _gain(self, unit: Unit) -> float:
        """Return about what goes with 8 bits: all but a 256th, since the steps become 16 times finer."""
        found = 0.0
        for name in unit:
            layer, share = self._bench.unfolded.layers[name].selected, self._shares[name]
            found += share.weights if layer.weight_bits < FINE_BITS else 0.0
            found += share.activations if layer.act_bits < FINE_BITS else 0.0
        return found * 255 / 256

    def _can_raise(self, name: str) -> bool:
        layer = self._bench.unfolded.layers[name].selected
        return layer.weight_bits < FINE_BITS or layer.act_bits < FINE_BITS

    def _raised(self, name: str, *, groups: bool = False) -> Choice:
        """Return a layer's choice with more bits, or with groups."""
        layer = self._bench.unfolded.layers[name].selected
        act_bits = max(layer.act_bits, FINE_BITS)
        if groups:
            return Choice(layer.weight_bits, group_size=GROUP, act_bits=act_bits)
        return Choice(FINE_BITS, group_size=layer.group_size, act_bits=act_bits)

    def _try_choices(self, kind: str, name: str, choices: Mapping[str, Chosen]) -> Tried:
        bits = {**self._bench.own, **self._bench.packed_here(choices, choices)}
        pairs = [(f"^{re.escape(layer)}$", self._shortest(choice)) for layer, choice in choices.items()]
        return self._try(kind, name, _overridden(self._bench.recipe, pairs), bits)

    def _shortest(self, chosen: Chosen) -> Chosen:
        """Return a choice that leaves to the recipe what the recipe says anyway."""
        choice, recipe = as_choice(chosen), self._bench.recipe
        short = Choice(
            choice.weight_bits,
            group_size=RECIPES if choice.group_size == recipe.group_size else choice.group_size,
            act_bits=RECIPES if choice.act_bits == recipe.act_bits else choice.act_bits,
        )
        return short.weight_bits if short.is_plain else short

    def _try(self, kind: str, name: str, recipe: Recipe, bits: Mapping[str, Chosen]) -> Tried:
        deviations = self._bench.trial.deviations({**bits}, self._kept, f"trying {kind}")
        numbers, worst = quantiles(deviations), guarded(deviations)
        found = Tried(
            kind=kind,
            name=f"{name}, calibrated on the data" if self._recalibrates and kind != "calibration" else name,
            recipe=recipe,
            recalibrates=self._recalibrates,
            median=numbers["p50"],
            p95=numbers["p95"],
            guarded=worst,
            held=self._bench.held(recipe),
            helps=worst <= self._target,
            deviations=deviations,
        )
        self.tried.append(found)
        return found


def _overridden(recipe: Recipe, pairs: Sequence[tuple[str, Chosen]]) -> Recipe:
    return replace(recipe, preset=None, overrides=(*pairs, *recipe.overrides))


def _with_activations(recipe: Recipe, act_bits: int) -> Recipe:
    """Return a recipe whose activations all have so many bits, in overrides too."""
    overrides = tuple(
        (pattern, replace(choice, act_bits=RECIPES) if choice.act_bits != RECIPES else choice)
        for pattern, choice in ((pattern, as_choice(chosen)) for pattern, chosen in recipe.overrides)
    )
    return replace(recipe, preset=None, act_bits=act_bits, act_scale="per_token", overrides=overrides)


def _layers(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"the {len(names)} worst layers"
