"""The float policy with a pack's layers at hand, and others that are packed when they are asked for.

Any mixture of layers can be put in place: as the pack has them, with other activations, packed otherwise, or float. So
a remedy is tried without making a pack of it. What was packed and which chunks were computed stays in the work folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.contents import layers_of
from vlapack.diagnose.unfolded import UnfoldedPack
from vlapack.machine.gpu import CPU
from vlapack.packing.make import pack_parent
from vlapack.packing.parent import Parent
from vlapack.pi0.names import EMBEDDING_MODULE
from vlapack.plan.wiring import shared_inputs
from vlapack.recipe.choice import Choice
from vlapack.recipe.recipe import Recipe
from vlapack.tune.allocate import FLOAT_BITS, Bits, Chosen
from vlapack.tune.candidates import load_candidates, pack_candidates
from vlapack.tune.folder import TuningFolder
from vlapack.tune.space import Space
from vlapack.tune.trial import Trial

EMBEDDING_CHOICE = 8
PACK, MORE = "pack", "more"
"""Who packed a layer: the pack that is diagnosed, and the one that is calibrated on the data."""


@dataclass(frozen=True)
class Made(Choice):
    """A choice for a layer, and who packed it: two layers of one choice may differ.

    Attributes:
        by: `PACK`, `MORE`, either of them with other activations, or here.
    """

    by: str = PACK

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
        unfolded: the layers that `own` has, unless it says otherwise.
        recipe: theirs.
        trial: runs the mixtures.
        own: the pack, as an assignment: what every mixture starts from.
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
        self._by = PACK
        self.own: dict[str, Made] = {name: self._choice(name) for name in unfolded.layers}
        self._choices: dict[str, dict[Chosen, nn.Module]] = {
            name: {self.own[name]: layer.module} for name, layer in unfolded.layers.items()
        }
        others = {name: (Made(FLOAT_BITS), module) for name, module in unfolded.scaled.items()}
        if unfolded.embedding is not None:
            others[EMBEDDING_MODULE] = Made(EMBEDDING_CHOICE), unfolded.embedding
        for name, (choice, module) in others.items():
            self.own[name], self._choices[name] = choice, {choice: module}
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
        found = {
            name: replace(choice, act_bits=act_bits, by=f"{self._by}-act{act_bits}")
            for name, choice in self.own.items()
            if choice.by == self._by and name in self.unfolded.layers
        }
        if any(choice not in self._choices[name] for name, choice in found.items()):
            modules = self.unfolded.rounding_otherwise(act_bits=act_bits)
            for name, choice in found.items():
                self._choices[name][choice] = modules[name]
        return {**self.own, **found}

    def packed_here(self, names: Iterable[str], choice: Mapping[str, Chosen], by: str = "here") -> dict[str, Made]:
        """Pack some layers from the parent's weights, by choices of their own.

        Args:
            names: whole units.
            choice: of each.
            by: a word for who packed.

        Returns:
            Their part of an assignment.
        """
        wanted = {name: choice[name] for name in names}
        found: dict[str, Made] = {}
        for chosen in dict.fromkeys(wanted.values()):
            part = [name for name, one in wanted.items() if one == chosen]
            missing = [name for name in part if _made(chosen, by) not in self._choices[name]]
            if missing:
                self._pack(missing, chosen, by)
            found |= {name: _made(chosen, by) for name in part}
        return found

    def recalibrated(self, observations: Sequence[Mapping[str, Any]]) -> dict[str, Made]:
        """Return the pack as it is when it is made again on other observations, in the work folder."""
        folder = self._work.folder / "recalibrated"
        recipe = replace(self.recipe, calib_steps=len(observations), atm=False, ohb=False)
        pack_parent(self.parent, recipe, folder, observations, device=self._device)
        self._again = UnfoldedPack(PackedCheckpoint.open(folder), self.parent, recipe, self._device)
        found = {}
        for name, module in self._again.modules.items():
            found[name] = replace(self.own[name], by=MORE)
            self._choices[name][found[name]] = module
        return found

    def adopt(self, own: dict[str, Made], observations: Sequence[Mapping[str, Any]]) -> None:
        """Go on from what `recalibrated` returned for these observations, which then calibrate everything."""
        self.own, self.unfolded, self._by = own, self._again, MORE
        self.recipe = replace(self.recipe, calib_steps=len(observations))
        self._calibrating = observations

    def again(self, names: Sequence[str]) -> dict[str, Made]:
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

    def _pack(self, names: Sequence[str], chosen: Chosen, by: str) -> None:
        base = replace(
            self.recipe, scope="", layers=tuple(names), overrides=(), embedding_bits=16, atm=False, ohb=False
        )
        # Without the 4 bits that a tuning always looks at.
        space = replace(Space.of(self.parent, base, (chosen,)), packed=(chosen,))
        pack_candidates(self._work, space, self._calibrating, self._device)
        for name, of in load_candidates(self._work, space, self._device).items():
            self._choices[name][_made(chosen, by)] = of[chosen]

    def _plain(self, name: str) -> Choice:
        """A layer's own choice, spelled out."""
        layer = self.unfolded.layers[name].selected
        return Choice(layer.weight_bits, group_size=layer.group_size, act_bits=layer.act_bits)

    def _choice(self, name: str) -> Made:
        layer = self.unfolded.layers[name].selected
        return Made(layer.weight_bits, group_size=layer.group_size, act_bits=layer.act_bits)


def _made(chosen: Chosen, by: str) -> Made:
    if isinstance(chosen, Choice):
        return Made(chosen.weight_bits, chosen.group_size, chosen.act_bits, by)
    return Made(chosen, by=by)
