"""A pack's layers as the float network would call them, so that both can be given identical inputs.

With the steps around it that were folded into other layers (`diagnose.weights`), a packed layer takes the place of its
float original, among float ones or packed ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.config import PackedGroup
from vlapack.diagnose.weights import PackedWeights
from vlapack.linear import PackedLinear
from vlapack.machine.gpu import CPU
from vlapack.methods.fold import restored_modulation
from vlapack.methods.transform import Transform
from vlapack.ops.activation import ActivationStep
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
        modulates: whether its output is adaRMS's scale, shift and gate, of which `after` changed the first two.
    """

    def __init__(self, packed: PackedLinear, before: Transform, after: Transform, *, modulates: bool) -> None:
        """Hold the layer; the steps are no buffers, since nothing moves them."""
        super().__init__()
        self.packed = packed
        self.before = before
        self.after = after
        self.modulates = modulates

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., K] of the float network → [..., N] of the float network."""
        y: Tensor = self.packed(self.before.inputs(x))
        return restored_modulation(y, self.after) if self.modulates else self.after.restored(y)

    def around(self, packed: PackedLinear) -> Unfolded:
        """Return another layer between the same steps."""
        return Unfolded(packed, self.before, self.after, modulates=self.modulates)


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

    Attributes:
        weights: what the pack holds of each layer.
    """

    def __init__(self, pack: PackedCheckpoint, parent: Parent, recipe: Recipe, device: torch.device = CPU) -> None:
        """Read nothing yet."""
        self.pack = pack
        self.parent = parent
        self.recipe = recipe
        self.weights = PackedWeights(pack, parent, recipe)
        self._device = device
        self._selected = pack.contents.layers
        self._first: dict[str, Unfolded] = {}

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """The packed layers that run, by name."""
        return {name: self._layer(name, group) for group in self._running for name in group.layers}

    @cached_property
    def embedding(self) -> nn.Module | None:
        """The embedding's 8-bit rows, None where the pack has them as the parent."""
        if self.recipe.embedding_bits != 8:
            return None
        rows, scale = (self.pack.read(name).to(self._device) for name in (EMBEDDING, f"{EMBEDDING}_scale"))
        return StoredEmbedding(rows, scale)

    @cached_property
    def scaled(self) -> dict[str, nn.Module]:
        """Layers of attention that stayed float and took its factors, by name."""
        balance = self.pack.document["measured"].get("balance", {})
        names = [name for factors in balance.values() for name in factors if name not in self._selected]
        return {name: _linear(self.pack.read(f"{name}.weight").to(self._device)) for name in names}

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All of it, by name."""
        found: dict[str, nn.Module] = {name: layer.module for name, layer in self.layers.items()}
        return {**found, **self.scaled} | ({} if self.embedding is None else {EMBEDDING_MODULE: self.embedding})

    def rounding_otherwise(self, *, act_bits: int) -> dict[str, Unfolded]:
        """Return the layers with the same weights and other activations, one scale per token.

        Args:
            act_bits: 4, 8 or 16.
        """
        found = {}
        for group in self._running:
            shared: ActivationStep | None = None
            for name in group.layers:
                tensors = {kind: tensor for kind, tensor in self._on_device(name).items() if kind != "input_scale"}
                packed = self._packed(name, tensors, act_bits, "per_token", shared)
                shared = packed.inputs
                found[name] = self.layers[name].module.around(packed)
        return found

    @property
    def _running(self) -> list[PackedGroup]:
        return [group for group in self.pack.groups if group.executed]

    def _layer(self, name: str, group: PackedGroup) -> Layer:
        first = group.layers[0]
        shared = None if name == first else self._first[first].packed.inputs
        packed = self._packed(name, self._on_device(name), group.act_bits, group.act_scale, shared)
        before, after = self._placed(self.weights.before(group)), self._placed(self.weights.after(name))
        module = Unfolded(packed, before, after, modulates=role(f"{name}.weight") == "modulation")
        self._first.setdefault(first, module)
        scale = self.weights.stored(name).get("input_scale")
        left = self._placed(self.weights.left(name))
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

    def _on_device(self, name: str) -> dict[str, Tensor]:
        """A layer's tensors, where it runs; its shape is read and not computed with."""
        return {
            kind: tensor if kind == "weight_shape" else tensor.to(self._device)
            for kind, tensor in self.weights.stored(name).items()
        }


def _linear(weight: Tensor) -> nn.Linear:
    """Return a float layer of attention, which has no bias, in the arithmetic of `tune.trial`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.float(), requires_grad=False)
    return layer
