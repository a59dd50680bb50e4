"""Work that was done before: packed groups that only need to be put in their places, and inputs that were seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from vlapack.methods.fold import FOLDS
from vlapack.plan.folding import Chain
from vlapack.plan.selected import Group
from vlapack.plan.wiring import role
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import Block, QuantizedGroup, Read

OF_ROWS = ("weight_packed", "weight", "weight_scale")
"""A packed layer's tensors whose rows are its outputs."""


class Ready(Protocol):
    """What an earlier measurement kept of a policy."""

    def group(self, group: Group) -> QuantizedGroup | None:
        """Return a group as `quantize.pack_group` would pack it before anything is folded into its rows.

        None: it is not there, or would come out otherwise.
        """
        ...

    def inputs(self, group: Group) -> LayerInputs | None:
        """Return what a group's layers see, None where it was not kept."""
        ...


def put_in_place(
    chains: Iterable[Chain], ready: Ready, read: Read, write: Callable[[Group, QuantizedGroup], None]
) -> list[Chain]:
    """Write the chains whose groups are all there.

    Args:
        chains: of `folding.chains`.
        ready: has packed groups.
        read: returns a float parameter by its name, for those that take folded steps.
        write: takes a group's tensors.

    Returns:
        The other chains.
    """
    left = []
    for chain in chains:
        found = [ready.group(group) if group[0].executed else None for group in chain]
        if all(group is not None for group in found):
            _write_chain(chain, [group for group in found if group is not None], read, write)
        else:
            left.append(chain)
    return left


def known_blocks(chains: Iterable[Chain], ready: Ready) -> tuple[list[Chain], Iterator[Block]]:
    """Divide chains into those whose inputs are not known, and blocks of the others, read one at a time."""
    known: list[Chain] = []
    left: list[Chain] = []
    for chain in chains:
        running = [group for group in chain if group[0].executed]
        (known if all(ready.inputs(group) is not None for group in running) else left).append(chain)

    def blocks() -> Iterator[Block]:
        for chain in known:
            inputs = {group[0].name: ready.inputs(group) for group in chain if group[0].executed}
            yield chain, {name: seen for name, seen in inputs.items() if seen is not None}

    return left, blocks()


def _write_chain(
    chain: Chain, found: Sequence[QuantizedGroup], read: Read, write: Callable[[Group, QuantizedGroup], None]
) -> None:
    """Reorder the rows of layers that a later one's order of channels is folded into; rows are packed one by one."""
    orders: dict[str, Tensor] = {}
    packed_here = {layer.name for group in chain for layer in group}
    for group, packed in zip(chain, found, strict=True):
        tensors = {}
        for name, tensor in packed.tensors.items():
            module, _, kind = name.rpartition(".")
            reordered = module in orders and kind in OF_ROWS
            tensors[name] = tensor.index_select(0, orders[module]) if reordered else tensor
        for name in group[0].folded_into:
            module, _, kind = name.rpartition(".")
            if kind == "weight" and module in packed_here:
                order = packed.folded_steps.permutation
                assert order is not None
                orders[module] = order.to(tensor.device)
            else:
                tensors[name] = FOLDS[role(name)](read(name), packed.folded_steps)
        write(group, replace(packed, tensors=tensors))
