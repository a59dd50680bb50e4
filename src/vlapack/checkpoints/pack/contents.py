"""What a pack holds: every tensor from names and shapes, and a pack that exists held against that.

A pack may be a stranger's, and who writes tensors can write their checksums too. So nothing is believed that can
be computed: the layers are those that `quantization_config` names, and what follows from them, the recipe and the
architecture (names, shapes, types, transforms, and the rest of `quantization_config`) must be there as it follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vlapack.checkpoints.pack.config import PackedGroup, format_of, packed_groups, quantization_config
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.checkpoints.proof import require_depths
from vlapack.checkpoints.tensorlayout import TensorSpec
from vlapack.checkpoints.weights import Weights
from vlapack.errors import InputError
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.load import FLOATS
from vlapack.pi0.names import EMBEDDING, EXPERT_HEAD, TIED_EMBEDDING, linears, never_executed, openpi_tensors
from vlapack.plan.select import select
from vlapack.plan.selected import Selected, groups
from vlapack.plan.sizes import Tensors, packed_tensors, rewritten
from vlapack.recipe.choice import ACT_BITS, GROUP_SIZES, Choice
from vlapack.recipe.recipe import Recipe

T = TypeVar("T")

POSITIVE = ("smooth", "input_scale")
"""Tensors by which inputs are divided."""


def layers_of(architecture: Pi0Config, recipe: Recipe, stored: Mapping[str, Choice] | None = None) -> list[Selected]:
    """Return the layers of a network that a recipe packs.

    Args:
        architecture: the network.
        recipe: how they are packed, and which.
        stored: layer → the choice of a pack that exists, which then decides instead of the recipe's patterns.

    Raises:
        InputError: as in `select.select`.
    """
    idle, head_dim = never_executed(architecture), architecture.llm.head_dim
    return select(linears(architecture), recipe, never_executed=idle, head_dim=head_dim, stored=stored)


def untouched(tensors: Tensors, selected: Sequence[Selected], recipe: Recipe) -> Tensors:
    """Return the tensors that a pack stores as the parent holds them.

    That is all but packed weights, tensors that take folded steps, and 8-bit embeddings.
    """
    replaced = {f"{layer.name}.weight" for layer in selected} | rewritten(tensors, selected).keys()
    if recipe.embedding_bits == 8:
        replaced.add(EMBEDDING)
    return {name: tensor for name, tensor in tensors.items() if name not in replaced}


def without_heads(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return what a pack is made of: no vocabulary heads, but the one that is tied to the embedding, as that."""
    kept = {name: tensor for name, tensor in tensors.items() if name not in (TIED_EMBEDDING, EXPERT_HEAD)}
    if TIED_EMBEDDING in tensors:
        kept.setdefault(EMBEDDING, tensors[TIED_EMBEDDING])
    return kept


def pack_specs(tensors: Tensors, selected: Sequence[Selected], recipe: Recipe) -> list[TensorSpec]:
    """Return every tensor of the pack that a network's `tensors` become, without computing one."""
    stored = dict(untouched(tensors, selected, recipe))
    for group in groups(selected, recipe):
        for layer in group:
            stored |= packed_tensors(layer, recipe, stores_transform=layer is group[0])
    stored |= rewritten(tensors, selected)
    if recipe.embedding_bits == 8:
        rows, width = tensors[EMBEDDING][0]
        stored[EMBEDDING] = ((rows, width), torch.int8)
        stored[f"{EMBEDDING}_scale"] = ((rows, 1), torch.float32)
    return [TensorSpec(name, dtype, shape) for name, (shape, dtype) in stored.items()]


@dataclass(frozen=True)
class Contents:
    """What a pack's documents say it holds.

    Attributes:
        recipe: how the layers are packed.
        layers: the packed layers, by name.
        groups: the same, as loading needs them.
    """

    path: Path
    recipe: Recipe
    layers: Mapping[str, Selected]
    groups: Sequence[PackedGroup]

    @classmethod
    def proven(cls, path: Path, document: Mapping[str, Any], config: PolicyConfig, weights: Weights) -> Contents:
        """Hold a pack's documents against the names, shapes and types of its tensors.

        Args:
            path: the folder, for messages.
            document: its `config.json`, as `read_config` returns it.
            config: the policy configuration in it.
            weights: its tensors, of which none is read.

        Raises:
            InputError: they contradict each other; the message names the tensor or the key.
        """
        architecture = config.architecture
        require_depths(weights, architecture)  # before a network of these sizes is built, be it without weights
        try:
            recipe = Recipe.from_dict({"fold": False, **document["recipe"]})  # the first packs knew no folding
            needed = format_of(recipe)
            if document["format_version"] != needed:
                raise InputError(f"format_version is not {needed}, which its recipe needs; copy the pack again")
            stored = _stored_choices(document["quantization_config"])
            if needed == 1:  # of groups and activations the recipe decides, which config_groups is held against
                stored = {name: Choice(choice.weight_bits) for name, choice in stored.items()}
            selected = layers_of(architecture, recipe, stored)
            _check_tensors(path, _wanted(architecture, selected, recipe), weights)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        _check_document(path, document["quantization_config"], recipe, selected, architecture)
        return cls(path, recipe, {layer.name: layer for layer in selected}, packed_groups(selected, recipe))

    @cached_property
    def ruled(self) -> frozenset[str]:
        """The tensors whose values `check_values` has rules for."""
        kinds = ("weight_shape", "permutation", *POSITIVE)
        return frozenset(f"{layer}.{kind}" for layer in self.layers for kind in kinds)

    def check_values(self, name: str, tensor: Tensor) -> None:
        """Refuse values with which a layer would read memory that is not its own, or divide by zero.

        Raises:
            InputError: a shape that is not the layer's, a permutation that is none, or a divisor of zero or less.
        """
        if name not in self.ruled:
            return
        module, _, kind = name.rpartition(".")
        layer = self.layers[module]
        if kind == "weight_shape":
            good, rule = tensor.tolist() == [layer.out_features, layer.in_features], "is not the layer's shape"
        elif kind == "permutation":
            order = tensor.to(torch.int64).sort().values
            good, rule = torch.equal(order, torch.arange(layer.in_features)), "has a channel twice, or one too far"
        else:
            good, rule = bool((tensor > 0).all()), "must be positive, since inputs are divided by it"
        if not good:
            raise InputError(f"{self.path}: {name} {rule}; the pack was not made by vlapack, or damaged: get it again")


def _stored_choices(document: Mapping[str, Any]) -> dict[str, Choice]:
    """Read which layers `quantization_config` says are packed, and how."""
    try:
        found = {
            str(name): (scheme["weights"], scheme["input_activations"])
            for scheme in document["config_groups"].values()
            for name in scheme["targets"]
        }
        stated = {
            name: (weights["num_bits"], weights["group_size"], 16 if inputs is None else inputs["num_bits"])
            for name, (weights, inputs) in found.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"quantization_config: no config_groups as vlapack writes them ({error!r:.100})") from error
    for name, (bits, size, act) in stated.items():
        for what, value, known in (
            ("weights", bits, (4, 8)),
            ("groups", size, GROUP_SIZES),
            ("activations", act, ACT_BITS),
        ):
            if not any(type(value) is type(one) and value == one for one in known):
                unit = "channels" if what == "groups" else "bits"
                raise InputError(
                    f"quantization_config: {name:.200} has {what} of {value!r:.40} {unit}; they are "
                    f"{' or '.join(map(str, known))}"
                )
    return {name: Choice(*numbers) for name, numbers in stated.items()}


OURS = ("weight_scale", "input_scale", "smooth", "rotation", "pre_rotation", "row_rotation")
"""Floats that packing makes; all others are the parent's, in its own type."""


def _wanted(architecture: Pi0Config, selected: Sequence[Selected], recipe: Recipe) -> dict[str, TensorSpec]:
    """Every tensor of such a pack; the parent's own are float32 here and may be any float there."""
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        name: (shape, torch.float32) for name, (shape, _) in openpi_tensors(architecture).items()
    }
    shapes[EMBEDDING] = shapes.pop(TIED_EMBEDDING)
    del shapes[EXPERT_HEAD]
    packed = pack_specs(shapes, selected, recipe)
    return {spec.name: spec for spec in packed}


def _check_tensors(path: Path, wanted: Mapping[str, TensorSpec], weights: Weights) -> None:
    found = set(weights.names())
    for name in sorted(wanted.keys() | found):
        spec = wanted.get(name)
        shape = weights.shape(name) if name in found else None
        if spec is None or shape != spec.shape:
            raise InputError(
                f"its recipe asks for {name:.200} of shape {None if spec is None else spec.shape} and its weights hold "
                f"{shape}; quantize again"
            )
        dtype = weights.dtype(name)
        parents = spec.dtype == torch.float32 and name.rpartition(".")[2] not in OURS
        if dtype != spec.dtype and not (parents and dtype in FLOATS):
            raise InputError(f"{name} is stored as {dtype}, and {spec.dtype} is what packs store; quantize again")


def _check_document(
    path: Path, found: Mapping[str, Any], recipe: Recipe, selected: Sequence[Selected], architecture: Pi0Config
) -> None:
    """Hold `quantization_config` against what would be written today; the first packs said less of each transform."""
    wanted = quantization_config(recipe, selected, linears(architecture))
    transforms = found.get("transforms")
    if isinstance(transforms, list) and len(transforms) == len(wanted["transforms"]):
        wanted["transforms"] = [
            {key: value for key, value in entry.items() if key in said or key in ("layers", "executed")}
            if isinstance(said, dict)
            else entry
            for entry, said in zip(wanted["transforms"], transforms, strict=True)
        ]
    for key in sorted(wanted.keys() | found.keys()):
        # As text, in which 8 and 8.0, or 1 and true, are not equal.
        one, other = (json.dumps(document.get(key), sort_keys=True) for document in (found, wanted))
        if one != other:
            raise InputError(
                f"{path}: quantization_config: {key} is not what follows from the recipe and the tensors: "
                f"{one:.80} instead of {other:.80}; quantize again"
            )
