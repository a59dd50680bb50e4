"""What every choice costs in bytes: of the pack's file, and of the memory of a policy that runs (`packing.held`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from vlapack.packing.held import Held
from vlapack.packing.parent import Parent
from vlapack.plan.selected import Selected
from vlapack.plan.sizes import packed_tensors, total_bytes
from vlapack.recipe.recipe import Recipe

Measure = Literal["file", "held"]


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
    """Bytes of the pack's file.

    Attributes:
        parent: the float checkpoint.
        fixed: of the file's header, at most.
    """

    parent: Parent
    fixed: int

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


def sizes_of(parent: Parent, measure: Measure, header: int) -> Sizes:
    """Return the way to count that a budget asks for; `header` is the most that a pack's header takes."""
    return File(parent, header) if measure == "file" else Held(parent.tensors, parent.config.architecture)
