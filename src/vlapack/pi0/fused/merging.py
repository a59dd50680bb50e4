"""One weight in place of several that read the same input, in the same memory.

The linears stay what they are: their tensors become views of the merged ones, so that nothing is held twice and the
plain network still runs. Merging needs one group of linears on top of what is held, and one group is merged at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.linear import PackedLinear
from vlapack.ops import layouts
from vlapack.ops.triton.layout import interleave


@dataclass(frozen=True)
class Place:
    """Where a linear holds one of the merged tensors' views.

    Attributes:
        tensors: the linear's own dict.
        name: in it.
        address: of the view.
    """

    tensors: Mapping[str, Tensor | None]
    name: str
    address: int

    def holds(self) -> bool:
        """Whether the view is still there; a linear that was moved has another tensor."""
        tensor = self.tensors[self.name]
        return tensor is not None and tensor.data_ptr() == self.address


@dataclass(frozen=True)
class Merged:
    """The tensors of one product.

    Attributes:
        weight: rows one after another, or `in_turns`: of nn.Linear [N, K], or in a form of `ops.layouts`.
        weight_scale: of packed linears, else None.
        bias: [N], or None.
        group_size: of packed linears, see `PackedLinear`.
        in_turns: whether the rows of two linears alternate.
        sizes: rows of each linear.
        places: where the linears hold their views.
    """

    weight: Tensor
    weight_scale: Tensor | None
    bias: Tensor | None
    group_size: int | None
    in_turns: bool
    sizes: tuple[int, ...]
    places: tuple[Place, ...]


def merge(linears: Sequence[nn.Module], *, in_turns: bool = False) -> Merged | None:
    """Merge linears that read the same input, or return None where their kinds do not allow it.

    Args:
        linears: packed ones of one `ActivationStep`, as many bits and as large groups, without row rotations; or plain
            ones of one dtype. All have a bias or none has. One linear is a product of its own.
        in_turns: take the rows of two linears in turns.
    """
    held = _held(linears)
    if held is None or len({_form(tensors) for tensors in held}) > 1:
        return None
    merged: dict[str, Tensor] = {}
    places = []
    for name in held[0]:
        parts = [tensors[name] for tensors in held]
        whole, views = (parts[0], parts) if len(parts) == 1 else _joined(parts, in_turns=in_turns)
        merged[name] = whole
        for linear, view in zip(linears, views, strict=True):
            if len(parts) > 1:
                _put(linear, name, view)
            tensors = linear._buffers if isinstance(linear, PackedLinear) else linear._parameters
            places.append(Place(tensors, name, view.data_ptr()))
    first = linears[0]
    return Merged(
        weight=next(iter(merged.values())),
        weight_scale=merged.get("weight_scale"),
        bias=merged.get("bias"),
        group_size=first.group_size if isinstance(first, PackedLinear) else None,
        in_turns=in_turns,
        sizes=tuple(len(next(iter(tensors.values()))) for tensors in held),
        places=tuple(places),
    )


def _held(linears: Sequence[nn.Module]) -> list[dict[str, Tensor]] | None:
    """The tensors of each linear by their names, the weight first; None where these linears are not merged."""
    if all(type(linear) is PackedLinear for linear in linears):
        first, *others = linears
        if any((one.inputs, one.group_size) != (first.inputs, first.group_size) for one in others):
            return None
        names = (*PackedLinear.WEIGHTS, "weight_scale", "row_rotation", "bias")
        found = [_present(linear._buffers, names) for linear in linears]
        # The CPU's engine lays rows out in panels, and a row rotation mixes them after the product.
        weights = [next(iter(tensors.values()), None) for tensors in found]
        fit = all(weight is not None and layouts.engine_of(weight) != "cpu" for weight in weights)
        return found if fit and not any("row_rotation" in tensors for tensors in found) else None
    if all(type(linear) is nn.Linear for linear in linears):
        return [_present(linear._parameters, ("weight", "bias")) for linear in linears]
    return None


def _present(tensors: Mapping[str, Tensor | None], names: Sequence[str]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name in names if (tensor := tensors.get(name)) is not None}


def _form(tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """What has to be the same in all linears: names, dtypes, devices, and shapes but for the number of rows."""
    return tuple((name, tensor.dtype, tensor.device, tensor.shape[1:]) for name, tensor in tensors.items())


def _joined(parts: Sequence[Tensor], *, in_turns: bool) -> tuple[Tensor, Sequence[Tensor]]:
    """Return the merged tensor, and the parts as views of it."""
    if not in_turns:
        whole = torch.cat(tuple(parts))
        return whole, torch.split(whole, [len(part) for part in parts])
    gate, up = parts
    whole = interleave(gate, up)
    return whole, (whole[0::2], whole[1::2])


def _put(linear: nn.Module, name: str, view: Tensor) -> None:
    if isinstance(linear, PackedLinear):
        linear.lie_in(name, view)
    else:
        linear.get_parameter(name).data = view
