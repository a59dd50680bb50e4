"""The layers that a tuning packed, for the pack that it chose: what would come out the same is not packed again."""

from __future__ import annotations

from dataclasses import replace

import torch

from vlapack.methods.transform import Transform
from vlapack.packing.held import TRANSFORM
from vlapack.packing.ready import Ready
from vlapack.plan.selected import Group, Selected
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import QuantizedGroup
from vlapack.recipe.recipe import Recipe
from vlapack.tune.candidates import ERROR, piece_of
from vlapack.tune.folder import TuningFolder
from vlapack.tune.space import Space


class Reuse(Ready):
    """What is in a tuning's folder.

    A group's transform and roundings depend on its inputs, on its own weights and, unless the rotation is the same for
    all, on which of the layers that share the input are packed. So a group is taken from the folder where that is the
    same, where nothing but an order of channels is folded, and where no output is rotated. With smoothing, which
    changes the weights of whatever makes an input, none is.

    Args:
        space: whose layers were packed.
        work: the folder.
        recipe: of the pack.
        device: where the pack is made.
    """

    def __init__(self, space: Space, work: TuningFolder, recipe: Recipe, device: torch.device) -> None:
        """Look up which layer was packed with which."""
        self._space, self._work, self._device = space, work, device
        self._groups = {layer.name: group for group in space.groups for layer in group}
        self._smooths = recipe.smoothing > 0
        self._any = recipe.rotation in ("none", "hadamard") and not recipe.rotates_first

    def group(self, group: Group) -> QuantizedGroup | None:
        """As `Ready.group`."""
        measured = self._groups[group[0].name]
        whole = tuple(layer.name for layer in measured) == tuple(layer.name for layer in group)
        if self._smooths or not (self._any or whole) or not all(map(self._same, group)):
            return None
        tensors: dict[str, torch.Tensor] = {}
        errors: dict[str, float] = {}
        lead, order = group[0], None
        for layer in group:
            piece = piece_of(tuple(self._at(one, layer) for one in measured))
            if not self._work.has(piece):
                return None
            found = self._work.load(piece)
            if f"{layer.name}.{ERROR}" not in found:
                return None
            errors[layer.name] = float(found.pop(f"{layer.name}.{ERROR}"))
            for name, tensor in found.items():
                module, _, kind = name.rpartition(".")
                if module == layer.name and (kind not in TRANSFORM or kind == "input_scale"):
                    tensors[name] = tensor
                elif layer is lead and module == measured[0].name and kind in TRANSFORM and kind != "input_scale":
                    tensors[f"{lead.name}.{kind}"] = tensor
        if "permutation" in lead.folded:
            order = tensors.pop(f"{lead.name}.permutation").long()
        return QuantizedGroup(tensors, errors, Transform(permutation=order))

    def inputs(self, group: Group) -> LayerInputs | None:
        """As `Ready.inputs`."""
        piece = f"inputs/{self._groups[group[0].name][0].name}"
        if not self._work.has(piece):
            return None
        found = self._work.load(piece)
        return LayerInputs(found["absmax"], found["sample"], int(found["tokens"])).to(self._device)

    def _same(self, layer: Selected) -> bool:
        """Whether a layer is rounded in the pack as it was measured."""
        alone = next(one for one in self._groups[layer.name] if one.name == layer.name)
        return (
            set(layer.folded) <= {"permutation"}
            and not layer.rotated_alike
            and not layer.block_out
            and (layer.block, layer.permute) == (alone.block, alone.permute)
        )

    @staticmethod
    def _at(layer: Selected, chosen: Selected) -> Selected:
        """Return a layer with the numbers that another one is packed by."""
        return replace(layer, weight_bits=chosen.weight_bits, group_size=chosen.group_size, act_bits=chosen.act_bits)
