"""The float policy with a pack's layers at hand, and others that are packed when they are asked for.

Any mixture of layers can be put in place: as the pack has them, with other activations, packed otherwise, or float. So
a remedy is tried without making a pack of it. What was packed and which chunks were computed stays in the work folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from vlapack.checkpoints.pack.contents import layers_of
from vlapack.diagnose.unfolded import UnfoldedPack
from vlapack.machine.gpu import CPU
from vlapack.packing.parent import Parent
from vlapack.pi0.names import EMBEDDING_MODULE
from vlapack.plan.wiring import shared_inputs
from vlapack.recipe.choice import Choice
from vlapack.recipe.recipe import Recipe
from vlapack.tune.allocate import Bits, Chosen
from vlapack.tune.candidates import load_candidates, pack_candidates
from vlapack.tune.folder import TuningFolder
from vlapack.tune.space import Space
from vlapack.tune.trial import Trial

EMBEDDING_CHOICE = 8


@dataclass(frozen=True)
class Made(Choice):
    """A choice for a layer, and who packed it: two layers of one choice may differ.

    Attributes:
        by: `pack`: the pack that is diagnosed; anything else: packed here.
    """

    by: str = "pack"

    def to_text(self) -> str:
        """Name it in results and work folders."""
        return f"{self.by}:{super().to_text()}"


class Workbench:
    """Puts layers together.

    Args:
        unfolded: the pack's layers.
        observations: what the float policy looks at, in the layout's keys.
        calibrating: what layers that are packed here are calibrated on.
        work: where finished work is kept.
        seed: of noise and directions.
        device: where everything runs.

    Attributes:
        trial: runs the mixtures.
        own: the pack, as an assignment.
    """

    def __init__(
        self,
        unfolded: UnfoldedPack,
        observations: Sequence[Mapping[str, Any]],
        calibrating: Sequence[Mapping[str, Any]],
        work: TuningFolder,
        *,
        seed: int,
        device: torch.device = CPU,
    ) -> None:
        """Load the float policy and the pack's layers."""
        self.unfolded = unfolded
        self.recipe = unfolded.recipe
        self._calibrating = calibrating
        self._work = work
        self._device = device
        self.own: Bits = {name: self._choice(name) for name in unfolded.layers}
        self._choices: dict[str, dict[Chosen, nn.Module]] = {
            name: {self.own[name]: layer.module} for name, layer in unfolded.layers.items()
        }
        if unfolded.embedding is not None:
            self.own[EMBEDDING_MODULE] = Made(EMBEDDING_CHOICE)
            self._choices[EMBEDDING_MODULE] = {self.own[EMBEDDING_MODULE]: unfolded.embedding}
        self.trial = Trial(unfolded.parent, self._choices, observations, work, seed=seed, device=device)

    @property
    def parent(self) -> Parent:
        """The float parent."""
        return self.unfolded.parent

    def units(self) -> list[tuple[str, ...]]:
        """Return the packed layers, those that read one input together: they share a transform and activation bits."""
        found: dict[str, list[str]] = {}
        for name in self.unfolded.layers:
            found.setdefault(shared_inputs(name), []).append(name)
        return [tuple(names) for names in found.values()]

    def with_activations(self, act_bits: int) -> Bits:
        """Return the pack with the same weights and other activations, one scale per token."""
        by = f"act{act_bits}"
        if not any(isinstance(one, Made) and one.by == by for of in self._choices.values() for one in of):
            for name, module in self.unfolded.rounding_otherwise(act_bits=act_bits).items():
                self._choices[name][self._with_activations(name, act_bits)] = module
        found = {name: self._with_activations(name, act_bits) for name in self.unfolded.layers}
        return {**self.own, **found}

    def packed_here(self, names: Iterable[str], choice: Mapping[str, Chosen], by: str = "here") -> Bits:
        """Pack some layers from the parent's weights, by choices of their own.

        Args:
            names: whole units.
            choice: of each.
            by: a word for who packed; `more`: calibrated on what `calibrate_more` was given.

        Returns:
            Their part of an assignment.
        """
        wanted = {name: choice[name] for name in names}
        found: dict[str, Chosen] = {}
        for chosen in dict.fromkeys(wanted.values()):
            part = [name for name, one in wanted.items() if one == chosen]
            missing = [name for name in part if _made(chosen, by) not in self._choices[name]]
            if missing:
                self._pack(missing, chosen, by, self._calibrating, self._work)
            found |= {name: _made(chosen, by) for name in part}
        return found

    def recalibrated(self, observations: Sequence[Mapping[str, Any]]) -> Bits:
        """Return the pack as it would be, packed again on other observations."""
        choices = {name: self._plain(name) for name in self.unfolded.layers}
        with ExitStack() as stack:
            plan = {**self._work.plan, "recalibrated": len(observations)}
            work = stack.enter_context(TuningFolder(self._work.folder / "more", plan))
            for chosen in dict.fromkeys(choices.values()):
                part = [name for name, one in choices.items() if one == chosen]
                self._pack(part, chosen, "more", observations, work)
        return {**self.own, **{name: _made(chosen, "more") for name, chosen in choices.items()}}

    def again(self, names: Sequence[str]) -> Bits:
        """Return some layers packed again as the recipe has them."""
        return self.packed_here(names, {name: self._plain(name) for name in names}, "again")

    def held(self, recipe: Recipe) -> int:
        """Return the bytes that a running policy of a recipe's pack holds on the CPU."""
        plain = replace(recipe, atm=False, ohb=False)
        layers = layers_of(self.parent.config.architecture, plain)
        choices = {
            Choice(layer.weight_bits, group_size=layer.group_size, act_bits=layer.act_bits): None for layer in layers
        }
        space = Space.of(self.parent, plain, tuple(choices))
        bits = space.bits(plain)
        if bits is None:
            raise RuntimeError("a space of a recipe's own choices does not hold the recipe")
        return space.problem({}, "held").nbytes(bits)

    def _pack(
        self,
        names: Sequence[str],
        chosen: Chosen,
        by: str,
        calibrating: Sequence[Mapping[str, Any]],
        work: TuningFolder,
    ) -> None:
        base = replace(
            self.recipe, scope="", layers=tuple(names), overrides=(), embedding_bits=16, atm=False, ohb=False
        )
        # Without the 4 bits that a tuning always looks at.
        space = replace(Space.of(self.parent, base, (chosen,)), packed=(chosen,))
        pack_candidates(work, space, calibrating, self._device)
        for name, of in load_candidates(work, space, self._device).items():
            self._choices[name][_made(chosen, by)] = of[chosen]

    def _plain(self, name: str) -> Choice:
        """A layer's own choice, spelled out."""
        layer = self.unfolded.layers[name].selected
        return Choice(layer.weight_bits, group_size=layer.group_size, act_bits=layer.act_bits)

    def _choice(self, name: str) -> Made:
        layer = self.unfolded.layers[name].selected
        return Made(layer.weight_bits, group_size=layer.group_size, act_bits=layer.act_bits)

    def _with_activations(self, name: str, act_bits: int) -> Made:
        layer = self.unfolded.layers[name].selected
        return Made(layer.weight_bits, group_size=layer.group_size, act_bits=act_bits, by=f"act{act_bits}")


def _made(chosen: Chosen, by: str) -> Made:
    if isinstance(chosen, Choice):
        return Made(chosen.weight_bits, chosen.group_size, chosen.act_bits, by)
    return Made(chosen, by=by)
