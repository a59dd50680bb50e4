"""About what a tuning decides: every layer that its preset touches, each at 4 or 8 bits or left as it is.

Groups and activation bits may be choices too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias, cast

from vlapack.checkpoints.pack.contents import layers_of, pack_specs
from vlapack.checkpoints.tensorlayout import TensorSpec, file_bytes
from vlapack.errors import InputError
from vlapack.packing.parent import Parent
from vlapack.pi0.names import EMBEDDING, EMBEDDING_MODULE, linears
from vlapack.plan.selected import Group, Selected, groups
from vlapack.plan.sizes import rewritten
from vlapack.plan.wiring import producer_of
from vlapack.recipe.choice import RECIPES, Choice, as_choice
from vlapack.recipe.recipe import Recipe
from vlapack.tune.allocate import FLOAT_BITS, Bits, Chosen, Option, Problem
from vlapack.tune.sizes import Measure, Sizes, sizes_of

PACKED_BITS: tuple[Chosen, ...] = (4, 8)
"""What a layer may become, unless more is asked for."""
EMBEDDING_BITS = 8
IDLE_BITS = 4
"""Of a layer that never runs, in every assignment: it costs no error."""

GroupSize: TypeAlias = Literal[32, 64, 128] | None

Errors = Mapping[str, Mapping[Chosen, float]]
"""Layer → choice → what it adds to the squared error; a layer that never runs adds nothing and is not named."""


@dataclass(frozen=True)
class Space:
    """The layers, and what the recipes over them have in common.

    Build one by `of`.
    """

    parent: Parent
    base: Recipe
    """Method and selection; its bits, of layers and embedding, are what is decided."""
    layers: tuple[Selected, ...]
    """At 4 bits, and with nothing folded: as they are measured, each among float ones."""
    groups: tuple[Group, ...]
    """Of those, the ones that read the same input."""
    planned: Mapping[str, Selected]
    """The same layers by name, with what folds when every one of them is packed."""
    packed: tuple[Chosen, ...] = PACKED_BITS
    """What a layer may become, beside staying as it is."""

    @classmethod
    def of(cls, parent: Parent, base: Recipe, packed: Sequence[Chosen] = PACKED_BITS) -> Space:
        """Return the space of every layer that `base` touches.

        The embedding belongs to it if `base` packs it.

        Args:
            parent: the float checkpoint.
            base: selection and method.
            packed: what a layer may become; 4 bits, which layers that never run get, are always among it.

        Raises:
            InputError: `base` asks for attention to be balanced, or selects nothing.
        """
        if base.balances:
            raise InputError(
                "tuning measures what each layer's rounding costs; attention temperature matching and output head "
                "balancing are measured on the whole pack: tune a preset with `atm=False` and `ohb=False`, and set "
                "`atm=True` and `ohb=True` when you quantize the tuned recipe"
            )
        base = replace(base, overrides=(), weight_bits=IDLE_BITS)
        alone = replace(base, fold=False)
        layers = layers_of(parent.config.architecture, alone)
        planned = {layer.name: layer for layer in layers_of(parent.config.architecture, base)}
        choices = tuple(dict.fromkeys((IDLE_BITS, *packed)))
        return cls(parent, base, tuple(layers), tuple(groups(layers, base)), planned, choices)

    @property
    def embedding(self) -> bool:
        """Whether the embedding's bits are decided too."""
        return self.base.embedding_bits == EMBEDDING_BITS

    @property
    def choices(self) -> dict[str, tuple[Chosen, ...]]:
        """What can be packed and runs, module name → what it can become."""
        found = {layer.name: self.packed for layer in self.layers if layer.executed}
        return found | ({EMBEDDING_MODULE: (EMBEDDING_BITS,)} if self.embedding else {})

    def problem(self, errors: Errors, measure: Measure = "file") -> Problem:
        """Return the allocation problem.

        Its bytes are exactly those of loaded policies of the packs; or those of their files, with the largest header
        that any of them has.
        """
        sizes = sizes_of(self.parent, measure, self.largest_header)
        nothing: Mapping[Chosen, float] = {}
        options = {}
        for layer in self.layers:
            cost = errors.get(layer.name, nothing)
            packed = {choice: sizes.layer(self.at(layer, choice), self.base) for choice in self.packed}
            if not layer.executed:
                options[layer.name] = [Option(IDLE_BITS, packed[IDLE_BITS])]
                continue
            options[layer.name] = [Option(bits, size, cost.get(bits, 0.0)) for bits, size in packed.items()] + [
                Option(FLOAT_BITS, sizes.stored(f"{layer.name}.weight"))
            ]
        if self.embedding:
            cost = errors.get(EMBEDDING_MODULE, nothing)
            packed_rows = sizes.embedding(*self.parent.tensors[EMBEDDING][0])
            options[EMBEDDING_MODULE] = [
                Option(EMBEDDING_BITS, packed_rows, cost.get(EMBEDDING_BITS, 0.0)),
                Option(FLOAT_BITS, sizes.stored(EMBEDDING)),
            ]
        chosen = {f"{layer.name}.weight" for layer in self.layers} | ({EMBEDDING} if self.embedding else set())
        return Problem(
            options,
            shared=tuple((_names(group), sizes.transform(self._alone(group[0]), self.base)) for group in self.groups),
            folded=tuple(self._folded(sizes)),
            counted="what this policy's pack can be" if measure == "file" else "what a policy of this pack holds",
            alike=tuple(_names(group) for group in self.groups if len(group) > 1 and group[0].executed),
            fixed=sizes.fixed + sum(sizes.stored(name) for name in self.parent.tensors if name not in chosen),
        )

    def at(self, layer: Selected, choice: Chosen) -> Selected:
        """Return a layer as it is packed by a choice."""
        weight_bits, group_size, act_bits = self._numbers(choice)
        return replace(layer, weight_bits=weight_bits, group_size=group_size, act_bits=act_bits)

    def recipe(self, bits: Bits) -> Recipe:
        """Return the recipe of an assignment: the usual choice, and an override per exact name of any other layer."""
        of_layer = {layer.name: bits[layer.name] for layer in self.layers}
        usual = self.uniform(max(self.packed, key=list(of_layer.values()).count))
        numbers = (usual.weight_bits, usual.group_size, usual.act_bits)

        def override(choice: Chosen) -> Chosen:
            weight_bits, group_size, act_bits = self._numbers(choice)
            if weight_bits == FLOAT_BITS:
                return weight_bits
            return Choice(
                weight_bits,
                group_size=RECIPES if group_size == usual.group_size else group_size,
                act_bits=RECIPES if act_bits == usual.act_bits else act_bits,
            )

        embedding = bits.get(EMBEDDING_MODULE, self.base.embedding_bits)
        assert isinstance(embedding, int)
        return replace(
            usual,
            overrides=tuple(
                (f"^{re.escape(name)}$", override(choice))
                for name, choice in of_layer.items()
                if self._numbers(choice) != numbers
            ),
            embedding_bits=embedding,
        )

    def uniform(self, choice: Chosen) -> Recipe:
        """Return the recipe that treats all layers alike."""
        weight_bits, group_size, act_bits = self._numbers(choice)
        return replace(self.base, weight_bits=weight_bits, group_size=group_size, act_bits=act_bits)

    def bits(self, recipe: Recipe) -> Bits | None:
        """Return the assignment that a recipe makes by what it touches, None where the space does not hold it.

        How it quantizes is not looked at, nor what it does with layers that never run.
        """
        known: dict[tuple[int, int | None, int], Chosen] = {
            self._numbers(choice): choice for choice in reversed(self.packed)
        }
        touched = {
            layer.name: known.get((layer.weight_bits, layer.group_size, layer.act_bits))
            for layer in layers_of(self.parent.config.architecture, recipe)
        }
        bits = {layer.name: touched.pop(layer.name, FLOAT_BITS) for layer in self.layers}
        bits |= {layer.name: IDLE_BITS for layer in self.layers if not layer.executed}
        if touched or (recipe.embedding_bits == EMBEDDING_BITS and not self.embedding):
            return None
        found = {name: choice for name, choice in bits.items() if choice is not None}
        if len(found) < len(bits):
            return None
        return found | ({EMBEDDING_MODULE: recipe.embedding_bits} if self.embedding else {})

    def _numbers(self, choice: Chosen) -> tuple[int, GroupSize, int]:
        """Return weight bits, group size and activation bits of a choice, the recipe's where it leaves them open."""
        chosen = as_choice(choice)
        group_size = self.base.group_size if chosen.group_size == RECIPES else cast(GroupSize, chosen.group_size)
        act_bits = self.base.act_bits if isinstance(chosen.act_bits, str) else chosen.act_bits
        return chosen.weight_bits, group_size, act_bits

    def file_bytes(self, recipe: Recipe) -> int:
        """Return the bytes of the file that a recipe makes."""
        return file_bytes(self._specs(recipe))

    @cached_property
    def largest_header(self) -> int:
        """Bytes of a pack's header at most: every layer packed and nothing folded, which is the most tensors.

        Larger tensors, such as those that stay float, may make each of the two offsets of a tensor a digit longer.
        """
        recipes = (replace(self.uniform(choice), fold=False) for choice in self.packed)
        return max(
            file_bytes(specs) - sum(spec.nbytes for spec in specs) + 2 * len(specs)
            for specs in map(self._specs, recipes)
        )

    def _specs(self, recipe: Recipe) -> list[TensorSpec]:
        selected = layers_of(self.parent.config.architecture, recipe)
        return pack_specs(self.parent.tensors, selected, recipe)

    def _folded(self, sizes: Sizes) -> Iterator[tuple[tuple[str, ...], int]]:
        """Yield (layers, bytes) of what folds as soon as all these layers are packed, be it fewer bytes or more."""
        names = linears(self.parent.config.architecture)
        for group in self.groups:
            lead, alone = self.planned[group[0].name], self._alone(group[0])
            before = producer_of(lead.name, names)
            if before is None or lead.folded == alone.folded:
                continue
            # What never runs stands in nobody's way.
            together = tuple(name for name in before.together if name in self.planned and self.planned[name].executed)
            together = tuple(dict.fromkeys((*_names(group), *together)))
            grown = sum(
                sizes.stored(name, dtype) - sizes.stored(name)
                for name, (_, dtype) in rewritten(self.parent.tensors, [lead]).items()
                if name.removesuffix(".weight") not in together
            )
            saved = sizes.transform(alone, self.base) - sizes.transform(lead, self.base)
            yield together, grown - saved

    def _alone(self, layer: Selected) -> Selected:
        """Return a layer with what folds whatever else is packed: a reordering."""
        steps = self.planned[layer.name].folded
        return replace(layer, folded=tuple(step for step in steps if step == "permutation"))


def _names(group: Group) -> tuple[str, ...]:
    return tuple(layer.name for layer in group)
