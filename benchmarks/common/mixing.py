"""Packed networks whose layers are mixed from a few packs: every layer is rounded once at each choice, not per mix.

A layer's rounding depends on its inputs and its choice, on no other layer's choice. So a mix is made by taking each
layer from the pack of its choice, and equals the pack that a recipe with those choices makes.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from common.comparison import Comparison, frames
from common.in_place import InPlace
from common.preparations import Preparations, Prepare
from torch import nn

from vlapack import Policy, Recipe, make_pack, open_checkpoint
from vlapack.checkpoints.pack.contents import layers_of
from vlapack.fingerprint import digest, digest_observations, digest_weights
from vlapack.linear import PackedLinear
from vlapack.packing.parent import Parent
from vlapack.packing.streaming import stream
from vlapack.pi0.compiled import fuse_where_it_pays
from vlapack.plan.patterns import Names
from vlapack.plan.selected import Group
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import Block, prepare
from vlapack.recipe.choice import Choice
from vlapack.recipe.presets import preset

Mix = Mapping[str, Choice]
"""Layer → how it is rounded."""


def with_choice(recipe: Recipe, choice: Choice) -> Recipe:
    """Return a recipe with one choice for every layer."""
    size = recipe.group_size if isinstance(choice.group_size, str) else choice.group_size
    return replace(recipe, weight_bits=choice.weight_bits, group_size=size, overrides=())  # type: ignore[arg-type]


def chosen(layers: Sequence[str], overrides: Sequence[tuple[str, int | Choice]]) -> Mix:
    """Return what a recipe's overrides choose for each layer; 4 bits where none matches."""
    names, recipe = Names(layers), Recipe(overrides=tuple(overrides))
    return {name: names.choice(recipe, name) for name in layers}


@dataclass(frozen=True)
class Seeded:
    """One seed's packs: a network whose layers are exchanged, and every layer at every choice that was asked for."""

    network: nn.Module
    layers: dict[Choice, dict[str, nn.Module]]

    def set(self, mix: Mix) -> None:
        """Give each layer its choice."""
        for name, choice in mix.items():
            if name in self.layers[choice]:  # layers that never run are in no network
                self.network.set_submodule(name, self.layers[choice][name])


class PolicyMixes:
    """A policy folder: how far its chunks move, as `vlapack compare` says it.

    Args:
        name: of the target.
        parent: the policy.
        calibration: recorded observations; a seed chooses which of them calibrate.
        test: others; their chunks are compared.
        recipe: `full`'s method, or another.
        every: compare on every so many-th of the test's observations.

    Attributes:
        comparison: with the parent's chunks on the test's observations.
    """

    unit = "deviation"

    def __init__(
        self, name: str, parent: str, calibration: Path, test: Path, recipe: Recipe | None = None, *, every: int = 1
    ) -> None:
        self.name = name
        self.checkpoint = open_checkpoint(parent)
        self._parent = Parent(self.checkpoint)
        self.recipe = recipe or replace(preset("full"), overrides=())
        self.layers = [layer.name for layer in layers_of(self.checkpoint.config.architecture, self.recipe)]
        self._calibration, compared = frames(calibration), frames(test)[::every]
        self.comparison = Comparison(name, Policy.from_checkpoint(self.checkpoint), compared)
        self._prepare, self._seen = Preparations(), {}
        self._seeded: tuple[int, Seeded, Policy] | None = None
        self.identity = digest(
            {
                "weights": digest_weights(self.checkpoint.names(), self.checkpoint.read),
                "observations": digest_observations([*self._calibration, *compared]),
            }
        )

    def forget(self, one: Prepare = prepare) -> None:
        """Let the layers be rounded again, prepared by the library or by another function."""
        self._seeded, self._prepare = None, Preparations(one)

    def measure(self, mix: Mix, seed: int) -> dict[str, float]:
        """Return median and 95 % point of the deviation, the gripper's flips, and the cosine of the chunks."""
        seeded, policy = self._packed(seed, set(mix.values()))
        seeded.set(mix)
        fuse_where_it_pays(policy.model)  # as packs run
        return self.differences(policy)

    def differences(self, policy: Policy) -> dict[str, float]:
        """Return the same of any policy with this one's parent."""
        return self.comparison.differences(policy)

    def pack(self, recipe: Recipe, seed: int, folder: Path) -> Policy:
        """Make a pack as `make_pack` does, with what is known already, and open it."""
        recipe = replace(recipe, seed=seed)
        with (
            patch("vlapack.packing.layers.stream", self._stream),
            patch("vlapack.quantize.groups.prepare", self._prepare),
        ):
            made = make_pack(self.checkpoint, recipe, folder, self.observations(recipe))
        return Policy.from_pretrained(made.pack)

    def _packed(self, seed: int, choices: set[Choice]) -> tuple[Seeded, Policy]:
        if self._seeded is None or self._seeded[0] != seed:
            self._seeded = None
            with tempfile.TemporaryDirectory() as folder:
                first = next(iter(choices))
                policy = self.pack(with_choice(self.recipe, first), seed, Path(folder) / "pack")
            self._seeded = (seed, Seeded(policy.model, {first: _packed_layers(policy.model)}), policy)
        _, seeded, policy = self._seeded
        for choice in choices - seeded.layers.keys():
            with tempfile.TemporaryDirectory() as folder:
                other = self.pack(with_choice(self.recipe, choice), seed, Path(folder) / "pack")
            seeded.layers[choice] = _packed_layers(other.model)
        return seeded, policy

    def observations(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return those that calibrate by this recipe."""
        order = np.random.default_rng(recipe.seed).permutation(len(self._calibration))
        return [self._calibration[number] for number in order[: recipe.calib_steps]]

    def _stream(self, _parent: Parent, todo: Sequence[Group], recipe: Recipe, *_: Any, **__: Any) -> Iterator[Block]:
        """Stand for `streaming.stream`: what a layer sees depends on nothing of a recipe but the observations."""
        key = (recipe.seed, recipe.calib_steps)
        if key not in self._seen:
            blocks = stream(self._parent, todo, recipe, self.observations(recipe))
            self._seen = {key: {name: inputs for _, of_block in blocks for name, inputs in of_block.items()}}
        seen: dict[str, LayerInputs] = self._seen[key]
        yield todo, {group[0].name: seen[group[0].name] for group in todo if group[0].executed}


class ModuleMixes:
    """A module in memory, by one of the targets that pack in place.

    Args:
        name: of the target.
        model: the float network.
        seen: a seed's inputs of every layer.
        measured: what to say of a packed network.
        identity: digest of weights and data.
    """

    def __init__(self, name: str, model: nn.Module, seen: Any, measured: Any, identity: str) -> None:
        self.name, self.identity, self._model, self._seen, self._measured = name, identity, model, seen, measured
        self.layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        self.recipe = replace(preset("full"), scope="", include=".", overrides=())
        self._packing = InPlace(model)
        self._seeded: tuple[int, Seeded] | None = None

    def forget(self, one: Prepare = prepare) -> None:
        """Let the layers be rounded again, prepared by the library or by another function."""
        self._seeded, self._packing = None, InPlace(self._model, one)

    def measure(self, mix: Mix, seed: int) -> dict[str, float]:
        """Return what the target says of this mix."""
        found: dict[str, float] = self._measured(self.network(mix, seed))
        return found

    def network(self, mix: Mix, seed: int) -> nn.Module:
        """Return the packed network of a mix, which the next call changes."""
        if self._seeded is None or self._seeded[0] != seed:
            self._seeded = (seed, Seeded(copy.deepcopy(self._model), {}))
        seeded = self._seeded[1]
        for choice in set(mix.values()) - seeded.layers.keys():
            seeded.layers[choice] = _packed_layers(self._quantized(choice, seed))
        seeded.set(mix)
        return seeded.network

    def _quantized(self, choice: Choice, seed: int) -> nn.Module:
        return self._packing.quantized(replace(with_choice(self.recipe, choice), seed=seed), self._seen(seed))


def _packed_layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}
