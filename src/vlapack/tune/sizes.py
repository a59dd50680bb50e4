"""What every choice costs in bytes: of the pack's file, and of the memory of a policy that runs.

The two differ. A running policy never holds the embedding (its rows are read from the file), the layers that never
run, and, in π0.5, what makes the table of flow times; its norms are widened to fp32; and the engine lays packed weights
out its own way. `Held` counts what `Policy.held_bytes` counts on the CPU in float32, as policies load by default.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import nn

from vlapack.machine.gpu import CPU
from vlapack.ops import layouts
from vlapack.packing.parent import Parent
from vlapack.pi0.load import arithmetic, build, executed_parameters
from vlapack.pi0.names import EMBEDDING_MODULE, time_table
from vlapack.plan.selected import Selected
from vlapack.plan.sizes import packed_tensors, total_bytes
from vlapack.recipe.recipe import Recipe

Measure = Literal["file", "held"]
DTYPE = torch.float32
"""Of the arithmetic of a policy that is loaded on a CPU."""
TRANSFORM = ("smooth", "permutation", "rotation", "pre_rotation", "input_scale")
"""What the one activation step of a group holds."""


class Sizes(Protocol):
    """One way to count bytes."""

    @property
    def fixed(self) -> int:
        """Bytes beside all of the parent's tensors."""
        ...

    def stored(self, name: str, dtype: torch.dtype | None = None) -> int:
        """Bytes of one of the parent's tensors as it is, or in another dtype, into which folding widens it."""
        ...

    def layer(self, layer: Selected, recipe: Recipe) -> int:
        """Bytes of a packed layer, without its bias and without what its group shares."""
        ...

    def transform(self, lead: Selected, recipe: Recipe) -> int:
        """Bytes of what a group shares, which its first layer stores."""
        ...

    def embedding(self, rows: int, width: int) -> int:
        """Bytes of the embedding at 8 bits."""
        ...


@dataclass(frozen=True)
class File:
    """Bytes of the pack's tensors."""

    parent: Parent
    fixed: int = 0

    def stored(self, name: str, dtype: torch.dtype | None = None) -> int:
        """As the file stores it."""
        shape, own = self.parent.tensors[name]
        return total_bytes([(shape, dtype or own)])

    def layer(self, layer: Selected, recipe: Recipe) -> int:
        """All that a pack stores for it."""
        return total_bytes(packed_tensors(layer, recipe, stores_transform=False).values())

    def transform(self, lead: Selected, recipe: Recipe) -> int:
        """What the first layer stores in addition."""
        return total_bytes(packed_tensors(lead, recipe).values()) - self.layer(lead, recipe)

    def embedding(self, rows: int, width: int) -> int:
        """Rows and their scales."""
        return total_bytes([((rows, width), torch.int8), ((rows, 1), torch.float32)])


class Held:
    """Bytes in the memory of a policy that was loaded on the CPU, in float32.

    Args:
        parent: the float checkpoint.

    Attributes:
        fixed: of the table of flow times.
    """

    def __init__(self, parent: Parent) -> None:
        """Look at names and shapes only."""
        self._parent = parent
        config = parent.config.architecture
        self._tabled, self.fixed = time_table(config)
        model = build(config)
        self._linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._read = executed_parameters(model).keys()

    @cached_property
    def nowhere(self) -> Collection[str]:
        """Modules of which a running policy holds nothing."""
        modules = {name.rpartition(".")[0] for name in self._parent.tensors}
        read = {name.rpartition(".")[0] for name in self._read}
        return (modules - read) | self._tabled | {EMBEDDING_MODULE}

    def stored(self, name: str, dtype: torch.dtype | None = None) -> int:
        """As wide as it computes; a linear as the file stores it, where that is narrower."""
        module = name.rpartition(".")[0]
        if module in self.nowhere:
            return 0
        shape, own = self._parent.tensors[name]
        own, wide = dtype or own, arithmetic(name, DTYPE)
        narrow = module in self._linears and own.itemsize < wide.itemsize
        return total_bytes([(shape, own if narrow else wide)])

    def layer(self, layer: Selected, recipe: Recipe) -> int:
        """The weight as the CPU's engine lays it out, and its scales."""
        if layer.name in self.nowhere:
            return 0
        weight = (layer.weight_bits, layer.out_features, layer.in_features, layer.act_bits)
        kept = {
            kind: tensor
            for name, tensor in packed_tensors(layer, recipe, stores_transform=False).items()
            if (kind := name.rpartition(".")[2]) in ("weight_scale", "row_rotation")
        }
        return layouts.held_bytes(*weight, CPU) + total_bytes(kept.values())

    def transform(self, lead: Selected, recipe: Recipe) -> int:
        """The tensors of the one activation step."""
        if lead.name in self.nowhere:
            return 0
        tensors = packed_tensors(lead, recipe).items()
        return total_bytes(tensor for name, tensor in tensors if name.rpartition(".")[2] in TRANSFORM)

    def embedding(self, rows: int, width: int) -> int:
        """Nothing: its rows stay in the file."""
        return 0


def sizes_of(parent: Parent, measure: Measure) -> Sizes:
    """Return the way to count that a budget asks for."""
    return File(parent) if measure == "file" else Held(parent)
