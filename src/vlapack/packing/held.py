"""What a running policy holds in memory, from names and shapes: what `Policy.held_bytes` counts of it once it runs.

That is on the CPU in float32, as policies load by default. A running policy never holds the embedding (its rows are
read from the file), the layers that never run, and, in π0.5, what makes the table of flow times; its norms are widened
to fp32; and the engine lays packed weights out its own way.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import torch
from torch import nn

from vlapack.errors import InputError
from vlapack.machine.gpu import CPU
from vlapack.ops import layouts
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.load import arithmetic, build, executed_parameters
from vlapack.pi0.names import EMBEDDING_MODULE, time_table
from vlapack.plan.selected import Selected
from vlapack.plan.sizes import Tensors, packed_tensors, total_bytes
from vlapack.recipe.recipe import Recipe

DTYPE = torch.float32
"""Of the arithmetic of a policy that is loaded on a CPU."""
TRANSFORM = ("smooth", "permutation", "rotation", "pre_rotation", "input_scale")
"""What the one activation step of a group holds."""


class Held:
    """Bytes in the memory of a policy, tensor by tensor.

    Args:
        tensors: of the float network, or of a pack.
        config: the network's sizes.

    Attributes:
        fixed: of the table of flow times.
    """

    def __init__(self, tensors: Tensors, config: Pi0Config) -> None:
        """Look at names and shapes only."""
        self._tensors = tensors
        self._tabled, self.fixed = time_table(config)
        model = build(config)
        self._linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._read = executed_parameters(model).keys()

    @cached_property
    def nowhere(self) -> Collection[str]:
        """Modules of which a running policy holds nothing."""
        modules = {name.rpartition(".")[0] for name in self._tensors}
        read = {name.rpartition(".")[0] for name in self._read}
        return (modules - read) | self._tabled | {EMBEDDING_MODULE}

    def stored(self, name: str, dtype: torch.dtype | None = None) -> int:
        """As wide as it computes; a linear as the file stores it, where that is narrower."""
        module = name.rpartition(".")[0]
        if module in self.nowhere:
            return 0
        shape, own = self._tensors[name]
        own, wide = dtype or own, arithmetic(name, DTYPE)
        narrow = module in self._linears and own.itemsize < wide.itemsize
        return total_bytes([(shape, own if narrow else wide)])

    def layer(self, layer: Selected, recipe: Recipe) -> int:
        """The weight as the CPU's engine lays it out, and its scales."""
        if layer.name in self.nowhere:
            return 0
        tensors = {
            name.rpartition(".")[2]: tensor
            for name, tensor in packed_tensors(layer, recipe, stores_transform=False).items()
        }
        try:
            weight = layouts.held_bytes(layer.weight_bits, layer.out_features, layer.in_features, layer.act_bits, CPU)
        except InputError:  # VLAPACK_ENGINE names an engine of GPUs: as the pack stores it
            weight = total_bytes(tensors[kind] for kind in ("weight", "weight_packed") if kind in tensors)
        return weight + total_bytes(tensors[kind] for kind in ("weight_scale", "row_rotation") if kind in tensors)

    def transform(self, lead: Selected, recipe: Recipe) -> int:
        """The tensors of the one activation step."""
        if lead.name in self.nowhere:
            return 0
        tensors = packed_tensors(lead, recipe).items()
        return total_bytes(tensor for name, tensor in tensors if name.rpartition(".")[2] in TRANSFORM)

    def embedding(self, rows: int, width: int) -> int:
        """Nothing: its rows stay in the file."""
        return 0
