"""What a pack holds of its layers' weights, in the terms of their float parent.

Where a step of a layer's transform was folded into the layers before, the layer reads channels in another order or
basis than the parent's does, and those before it write them so. The pack does not store these steps: they follow from
the parent's weights (a rotation), or are found again by comparing what the pack holds with the parent (`methods.
unfold`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.config import PackedGroup
from vlapack.methods.balance import scale_rows
from vlapack.methods.fold import FOLDS
from vlapack.methods.rotate import rotate_rows, rotation
from vlapack.methods.round import column_scale, round_weight
from vlapack.methods.transform import Transform
from vlapack.methods.unfold import found_order, found_scale
from vlapack.ops.activation import ActivationStep
from vlapack.ops.int4 import unpack_int4
from vlapack.packing.parent import Parent
from vlapack.plan.selected import Selected
from vlapack.plan.wiring import role
from vlapack.recipe.recipe import Recipe


class PackedWeights:
    """Reads a pack's layers.

    Args:
        pack: the pack.
        parent: its float parent.
        recipe: the pack's.
    """

    def __init__(self, pack: PackedCheckpoint, parent: Parent, recipe: Recipe) -> None:
        """Read nothing yet."""
        self._pack = pack
        self._parent = parent
        self._recipe = recipe
        self._selected = pack.contents.layers
        self._group_of = {name: group for group in pack.groups for name in group.layers}
        self._folded: dict[str, Transform] = {}

    def weight_error(self, name: str) -> float:
        """Return ‖W' − s·q‖ / ‖W'‖ of a layer, W' being its parent's weight as it was rounded: as packing does."""
        wanted, found = self._wanted(name), self._rounded(name)
        norm = float(wanted.norm())
        return float((wanted - found).norm()) / norm if norm else 0.0

    def rounded_anew(self, name: str) -> float:
        """Return what `weight_error` would be if the parent's weight were rounded to nearest, with the same scales."""
        layer, wanted = self._selected[name], self._wanted(name)
        integers, scales = round_weight(wanted, layer.weight_bits, self._recipe.clip, layer.group_size)
        found = integers * column_scale(scales, layer.in_features, layer.group_size)
        return float((wanted - found).norm() / wanted.norm())

    def clipped_weights(self, name: str) -> float:
        """Return which part of a layer's weights lies beyond its range of integers, by more than half a step."""
        layer = self._selected[name]
        scales = self._scales(name)
        steps = self._wanted(name) / scales
        largest = 2 ** (layer.weight_bits - 1)
        return float(((steps > largest - 0.5) | (steps < -largest - 0.5)).float().mean())

    def stored(self, name: str) -> dict[str, Tensor]:
        """Return a layer's tensors by their names in it, those that its group shares among them."""
        first = self._group_of[name].layers[0]
        found = {kind: tensor for kind, tensor in self._own(first).items() if kind in ActivationStep.NAMES}
        return {**found, **self._own(name)}

    def left(self, name: str) -> Transform:
        """Return the steps of a layer's transform that are done when it runs."""
        return Transform.from_tensors(self.stored(name))

    def before(self, group: PackedGroup) -> Transform:
        """Return the steps that are folded out of a group."""
        first = group.layers[0]
        if first not in self._folded:
            self._folded[first] = self._find(group, self._lead(group))
        return self._folded[first]

    def after(self, name: str) -> Transform:
        """Return what a layer's output has undergone for the layers that read it."""
        made = self._folded_into(name)
        if made is None:
            return Transform()
        return Transform(permutation=made.permutation) if role(f"{name}.weight") == "factor" else made

    def _own(self, name: str) -> dict[str, Tensor]:
        return {kind: self._pack.read(f"{name}.{kind}") for kind in self._kinds.get(name, ())}

    @cached_property
    def _kinds(self) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for name in self._pack.names():
            module, _, kind = name.rpartition(".")
            kinds.setdefault(module, []).append(kind)
        return kinds

    def _rounded(self, name: str) -> Tensor:
        """A layer's weight [N, K] as it is stored: integers by scales."""
        layer, tensors = self._selected[name], self.stored(name)
        four = layer.weight_bits == 4
        integers = unpack_int4(tensors["weight_packed"], layer.in_features) if four else tensors["weight"]
        return integers * self._scales(name)

    def _wanted(self, name: str) -> Tensor:
        """The parent's weight [N, K] as it was when it was rounded."""
        weight = self._parent.read(f"{name}.weight").float()
        made = self._folded_into(name)
        if made is not None:
            weight = FOLDS[role(f"{name}.weight")](weight, made).float()
        weight = self.left(name).weight(self.before(self._group_of[name]).weight(weight))
        rows = self.stored(name).get("row_rotation")
        return weight if rows is None else rotate_rows(weight, rows)

    def _effective(self, name: str) -> Tensor:
        """A layer's weight [N, K] as it is stored, with the transform of its input undone; its rows as in the pack."""
        weight, rows = self._rounded(name), self.stored(name).get("row_rotation")
        if rows is not None:
            weight = rotate_rows(weight, rows.transpose(-1, -2))
        return self.before(self._group_of[name]).restored_weight(self.left(name).restored_weight(weight))

    def _scales(self, name: str) -> Tensor:
        """A layer's scales for every column [N, K or 1], as rounding found them: attention's factors came later."""
        layer, scales = self._selected[name], self.stored(name)["weight_scale"]
        for factors in self._pack.document["measured"].get("balance", {}).values():
            if name in factors:
                scales = scale_rows(scales, 1 / torch.tensor(factors[name], dtype=torch.float64))
        return column_scale(scales, layer.in_features, layer.group_size)

    def _lead(self, group: PackedGroup) -> Selected:
        return self._selected[group.layers[0]]

    def _folded_into(self, name: str) -> Transform | None:
        for group in self._pack.groups:
            if f"{name}.weight" in self._lead(group).folded_into:
                return self.before(group)
        return None

    def _find(self, group: PackedGroup, lead: Selected) -> Transform:
        found = Transform()
        if "rotation" in lead.folded:
            served = torch.cat([self._parent.read(f"{name}.weight").float() for name in lead.rotated_alike])
            return Transform(rotation=rotation(self._recipe.rotation, served, lead.block, shared=True))
        sources = {tensor: self._source(tensor) for tensor in lead.folded_into}
        if "permutation" in lead.folded:
            made = [(before, after) for before, after in sources.values() if before.dim() == 2]
            readers = [self._columns(name) for name in group.layers]
            found = replace(found, permutation=found_order([*made, *readers]))
        if "smooth" in lead.folded:
            tensor = next(name for name in sources if role(name) != "factor" and name.endswith(".weight"))
            before, after = sources[tensor]
            if found.permutation is not None:
                after = after.index_select(0, found.permutation.argsort())
            found = replace(found, scale=found_scale(before, after, role(tensor)))
        return found

    def _source(self, tensor: str) -> tuple[Tensor, Tensor]:
        """Return a tensor that takes folded steps, in the parent and in the pack."""
        module = tensor.rpartition(".")[0]
        packed = module in self._selected and tensor.endswith(".weight")
        return self._parent.read(tensor).float(), self._effective(module) if packed else self._pack.read(tensor).float()

    def _columns(self, name: str) -> tuple[Tensor, Tensor]:
        """Return a layer's columns in the parent and in the pack, where those are in another order."""
        return self._parent.read(f"{name}.weight").float().T, self.left(name).restored_weight(self._rows(name)).T

    def _rows(self, name: str) -> Tensor:
        weight, rows = self._rounded(name), self.stored(name).get("row_rotation")
        return weight if rows is None else rotate_rows(weight, rows.transpose(-1, -2))
