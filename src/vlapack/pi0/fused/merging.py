"""One weight in place of several that read the same input and have the same bits, in the same memory.

The linears stay what they are: their tensors become views of the merged ones, so that nothing is held twice and the
plain network still runs. Merging needs one group of linears on top of what is held, and one group is merged at a time.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.linear import PackedLinear
from vlapack.ops import engine, layouts
from vlapack.ops.cpu import PANEL
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


def merge(linears: Sequence[nn.Module], *, in_turns: bool = False) -> tuple[Merged, ...]:
    """Merge linears that read the same input: one product for each run of neighbors that are of one form.

    Args:
        linears: packed ones of one `ActivationStep`, without row rotations, or plain ones. Of one form are those with
            as many bits and as large groups, or of one dtype, and with a bias or without.
        in_turns: take the rows of two linears of one form in turns, where the engine can.

    Returns:
        One product for all where their form is the same, nothing where the kinds of the linears do not allow merging.
    """
    forms = [_form(linear) for linear in linears]
    steps = {id(linear.inputs) if isinstance(linear, PackedLinear) else None for linear in linears}
    if None in forms or len(steps) > 1:
        return ()
    in_turns = in_turns and not any(_in_panels(linear) for linear in linears)
    runs = groupby(zip(forms, linears, strict=True), key=lambda pair: pair[0])
    return tuple(_merged([linear for _, linear in run], in_turns=in_turns) for _, run in runs)


def _form(linear: nn.Module) -> Hashable:
    """What has to be the same in linears that are merged; None for one that never is."""
    held = _held(linear)
    weight = next(iter(held.values()), None)
    if weight is None:
        return None
    if type(linear) is PackedLinear:
        # A row rotation mixes rows after the product, and half a panel leaves a gap.
        gap = _in_panels(linear) and linear.out_features % PANEL != 0
        if gap or linear.row_rotation is not None:
            return None
        group_size = linear.group_size
    elif type(linear) is nn.Linear and engine.active(weight.device) != "cpu":
        group_size = None
    else:  # the CPU's engine leaves floating weights where they are, which may be a file
        return None
    return group_size, *((name, tensor.dtype, tensor.device, tensor.shape[1:]) for name, tensor in held.items())


def _in_panels(linear: nn.Module) -> bool:
    """Whether the CPU's engine has laid out its weight."""
    return isinstance(linear, PackedLinear) and layouts.engine_of(next(iter(_held(linear).values()))) == "cpu"


def _held(linear: nn.Module) -> dict[str, Tensor]:
    """The tensors of a linear by their names, the weight first."""
    names = (*PackedLinear.WEIGHTS, "weight_scale", "bias")
    tensors = _dict_of(linear)
    return {name: tensor.detach() for name in names if (tensor := tensors.get(name)) is not None}


def _dict_of(linear: nn.Module) -> Mapping[str, Tensor | None]:
    return linear._buffers if isinstance(linear, PackedLinear) else linear._parameters


def _merged(linears: Sequence[Any], *, in_turns: bool) -> Merged:
    """Merge linears of one form; one linear is a product of its own."""
    held = [_held(linear) for linear in linears]
    merged: dict[str, Tensor] = {}
    places = []
    for name in held[0]:
        parts = [tensors[name] for tensors in held]
        whole, views = (parts[0], parts) if len(parts) == 1 else _joined(parts, in_turns=in_turns)
        merged[name] = whole
        for linear, view in zip(linears, views, strict=True):
            if len(parts) > 1:
                _put(linear, name, view)
            places.append(Place(_dict_of(linear), name, view.data_ptr()))
    first = linears[0]
    return Merged(
        weight=next(iter(merged.values())),
        weight_scale=merged.get("weight_scale"),
        bias=merged.get("bias"),
        group_size=first.group_size if isinstance(first, PackedLinear) else None,
        in_turns=in_turns and len(linears) > 1,
        sizes=tuple(linear.out_features for linear in linears),
        places=tuple(places),
    )


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
