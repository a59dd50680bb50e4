"""A pack's layers as the float network would call them, so that both can be given identical inputs.

Where a step of a layer's transform was folded into the layers before, the layer reads channels in another order or
basis than the parent's does, and those before it write them so. The pack does not store these steps: they follow from
the parent's weights (a rotation), or are found again by comparing what the pack holds with the parent (`methods.
unfold`). With them around it, a packed layer takes the place of its float original, among float ones or packed ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.config import PackedGroup
from vlapack.linear import PackedLinear
from vlapack.machine.gpu import CPU
from vlapack.methods.fold import FOLDS
from vlapack.methods.rotate import rotate_rows, rotation
from vlapack.methods.round import column_scale, round_weight
from vlapack.methods.transform import Transform
from vlapack.methods.unfold import found_order, found_scale
from vlapack.ops.activation import ActivationStep
from vlapack.ops.int4 import unpack_int4
from vlapack.packing.parent import Parent
from vlapack.pi0.names import EMBEDDING, EMBEDDING_MODULE
from vlapack.pi0.stored import StoredEmbedding
from vlapack.plan.selected import Selected
from vlapack.plan.wiring import role
from vlapack.recipe.recipe import Recipe


class Unfolded(nn.Module):
    """A packed layer between the steps that were folded out of it and into it; called like the float layer.

    Args:
        packed: the layer.
        before: what the layers before do to its input in the pack.
        after: what it does, for the layers behind, to its output.
    """

    def __init__(self, packed: PackedLinear, before: Transform, after: Transform) -> None:
        """Hold the layer; the steps are no buffers, since nothing moves them."""
        super().__init__()
        self.packed = packed
        self.before = before
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., K] of the float network → [..., N] of the float network."""
        y: Tensor = self.packed(self.before.inputs(x))
        return self.after.restored(y)


@dataclass(frozen=True)
class Layer:
    """One packed layer that runs.

    Attributes:
        selected: what it is.
        module: in the terms of the float network.
        left: the steps of its transform that are done when it runs.
        act_scale: the one step of its activations, where it is static.
    """

    selected: Selected
    module: Unfolded
    left: Transform
    act_scale: float | None


class UnfoldedPack:
    """Builds layers of a pack for the place of their float originals.

    Args:
        pack: the pack.
        parent: its float parent.
        recipe: the pack's.
        device: where the layers are to run.
    """

    def __init__(self, pack: PackedCheckpoint, parent: Parent, recipe: Recipe, device: torch.device = CPU) -> None:
        """Read nothing yet."""
        self.pack = pack
        self.parent = parent
        self.recipe = recipe
        self._device = device
        self._selected = pack.contents.layers
        self._group_of = {name: group for group in pack.groups for name in group.layers}
        self._folded: dict[str, Transform] = {}
        self._first: dict[str, Unfolded] = {}

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """The packed layers that run, by name, without those in `left_out`."""
        return {
            name: self._layer(name) for group in self._running for name in group.layers if name not in self.left_out
        }

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """Layers that cannot be looked at by themselves: a factor is folded into their scale *and* their shift."""
        names = {tensor.rpartition(".")[0] for group in self._running for tensor in self._lead(group).folded_into}
        modulating = [name for name in names if role(f"{name}.weight") == "modulation" and name in self._selected]
        return tuple(sorted(modulating))

    @cached_property
    def embedding(self) -> nn.Module | None:
        """The embedding's 8-bit rows, None where the pack has them as the parent."""
        if self.recipe.embedding_bits != 8:
            return None
        rows, scale = (self.pack.read(name).to(self._device) for name in (EMBEDDING, f"{EMBEDDING}_scale"))
        return StoredEmbedding(rows, scale)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All of it, by name."""
        found: dict[str, nn.Module] = {name: layer.module for name, layer in self.layers.items()}
        return found if self.embedding is None else {**found, EMBEDDING_MODULE: self.embedding}

    def rounding_otherwise(self, *, act_bits: int) -> dict[str, Unfolded]:
        """Return the layers with the same weights and other activations, one scale per token.

        Args:
            act_bits: 4, 8 or 16.
        """
        found = {}
        for group in self._running:
            shared: ActivationStep | None = None
            for name in (name for name in group.layers if name in self.layers):
                tensors = {kind: tensor for kind, tensor in self._on_device(name).items() if kind != "input_scale"}
                packed = self._packed(name, tensors, act_bits, "per_token", shared)
                shared = packed.inputs
                layer = self.layers[name].module
                found[name] = Unfolded(packed, layer.before, layer.after)
        return found

    def weight_error(self, name: str) -> float:
        """Return ‖W' − s·q‖ / ‖W'‖ of a layer, W' being its parent's weight as it was rounded: as packing does."""
        wanted, found = self._wanted(name), self._rounded(name)
        norm = float(wanted.norm())
        return float((wanted - found).norm()) / norm if norm else 0.0

    def rounded_anew(self, name: str) -> float:
        """Return what `weight_error` would be if the parent's weight were rounded to nearest, with the same scales."""
        layer, wanted = self._selected[name], self._wanted(name)
        integers, scales = round_weight(wanted, layer.weight_bits, self.recipe.clip, layer.group_size)
        found = integers * column_scale(scales, layer.in_features, layer.group_size)
        return float((wanted - found).norm() / wanted.norm())

    def clipped_weights(self, name: str) -> float:
        """Return which part of a layer's weights lies beyond its range of integers, by more than half a step."""
        layer = self._selected[name]
        scales = column_scale(self._stored(name)["weight_scale"], layer.in_features, layer.group_size)
        steps = self._wanted(name) / scales
        largest = 2 ** (layer.weight_bits - 1)
        return float(((steps > largest - 0.5) | (steps < -largest - 0.5)).float().mean())

    @property
    def _running(self) -> list[PackedGroup]:
        return [group for group in self.pack.groups if group.executed]

    def _lead(self, group: PackedGroup) -> Selected:
        return self._selected[group.layers[0]]

    def _layer(self, name: str) -> Layer:
        group = self._group_of[name]
        first = group.layers[0]
        shared = None if name == first else self._first[first].packed.inputs
        tensors = self._on_device(name)
        packed = self._packed(name, tensors, group.act_bits, group.act_scale, shared)
        module = Unfolded(packed, self._placed(self._before(group)), self._placed(self._after(name)))
        self._first.setdefault(first, module)
        scale = self._stored(name).get("input_scale")
        left = self._placed(self._left(name))
        return Layer(self._selected[name], module, left, None if scale is None else float(scale))

    def _placed(self, steps: Transform) -> Transform:
        """Return steps on the device of the layers."""
        return Transform(
            **{name: None if tensor is None else tensor.to(self._device) for name, tensor in vars(steps).items()}
        )

    def _packed(
        self, name: str, tensors: Mapping[str, Tensor], act_bits: int, act_scale: Any, shared: ActivationStep | None
    ) -> PackedLinear:
        layer = self._selected[name]
        return PackedLinear.from_tensors(
            tensors,
            weight_bits=layer.weight_bits,
            group_size=layer.group_size,
            act_bits=act_bits,
            act_scale=act_scale,
            inputs=shared,
        )

    def _stored(self, name: str) -> dict[str, Tensor]:
        """A layer's tensors by their names in it, those that its group shares among them."""
        first = self._group_of[name].layers[0]
        found = {kind: tensor for kind, tensor in self._own(first).items() if kind in ActivationStep.NAMES}
        return {**found, **self._own(name)}

    def _own(self, name: str) -> dict[str, Tensor]:
        return {kind: self.pack.read(f"{name}.{kind}") for kind in self._kinds.get(name, ())}

    @cached_property
    def _kinds(self) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for name in self.pack.names():
            module, _, kind = name.rpartition(".")
            kinds.setdefault(module, []).append(kind)
        return kinds

    def _on_device(self, name: str) -> dict[str, Tensor]:
        """As `_stored`, where the layer runs; its shape is read and not computed with."""
        return {
            kind: tensor if kind == "weight_shape" else tensor.to(self._device)
            for kind, tensor in self._stored(name).items()
        }

    def _left(self, name: str) -> Transform:
        return Transform.from_tensors(self._stored(name))

    def _rounded(self, name: str) -> Tensor:
        """A layer's weight [N, K] as it is stored: integers by scales."""
        layer, tensors = self._selected[name], self._stored(name)
        four = layer.weight_bits == 4
        integers = unpack_int4(tensors["weight_packed"], layer.in_features) if four else tensors["weight"]
        return integers * column_scale(tensors["weight_scale"], layer.in_features, layer.group_size)

    def _wanted(self, name: str) -> Tensor:
        """The parent's weight [N, K] as it was when it was rounded."""
        weight = self.parent.read(f"{name}.weight").float()
        made = self._folded_into(name)
        if made is not None:
            weight = FOLDS[role(f"{name}.weight")](weight, made).float()
        weight = self._left(name).weight(self._before(self._group_of[name]).weight(weight))
        rows = self._stored(name).get("row_rotation")
        return weight if rows is None else rotate_rows(weight, rows)

    def _effective(self, name: str) -> Tensor:
        """A layer's weight [N, K] as it is stored, with the transform of its input undone; its rows as in the pack."""
        weight, rows = self._rounded(name), self._stored(name).get("row_rotation")
        if rows is not None:
            weight = rotate_rows(weight, rows.transpose(-1, -2))
        return self._before(self._group_of[name]).restored_weight(self._left(name).restored_weight(weight))

    def _before(self, group: PackedGroup) -> Transform:
        """Return the steps that are folded out of a group."""
        first = group.layers[0]
        if first not in self._folded:
            self._folded[first] = self._find(group, self._lead(group))
        return self._folded[first]

    def _after(self, name: str) -> Transform:
        """Return what a layer's output has undergone for the layers that read it."""
        made = self._folded_into(name)
        if made is None:
            return Transform()
        return Transform(permutation=made.permutation) if role(f"{name}.weight") == "factor" else made

    def _folded_into(self, name: str) -> Transform | None:
        for group in self.pack.groups:
            if f"{name}.weight" in self._lead(group).folded_into:
                return self._before(group)
        return None

    def _find(self, group: PackedGroup, lead: Selected) -> Transform:
        found = Transform()
        if "rotation" in lead.folded:
            served = torch.cat([self.parent.read(f"{name}.weight").float() for name in lead.rotated_alike])
            return Transform(rotation=rotation(self.recipe.rotation, served, lead.block, shared=True))
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
        return self.parent.read(tensor).float(), self._effective(module) if packed else self.pack.read(tensor).float()

    def _columns(self, name: str) -> tuple[Tensor, Tensor]:
        """Return a layer's columns in the parent and in the pack, where those are in another order."""
        return self.parent.read(f"{name}.weight").float().T, self._left(name).restored_weight(self._rows(name)).T

    def _rows(self, name: str) -> Tensor:
        weight, rows = self._rounded(name), self._stored(name).get("row_rotation")
        return weight if rows is None else rotate_rows(weight, rows.transpose(-1, -2))
