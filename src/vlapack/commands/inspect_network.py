"""The network that `vlapack inspect` looks at: names, shapes and types, of a folder or of a configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlapack.errors import InputError
from vlapack.files import from_home
from vlapack.plan.selected import Selected
from vlapack.recipe.recipe import Recipe

if TYPE_CHECKING:
    from vlapack.packing.pack_bytes import PackBytes
    from vlapack.pi0.config import Pi0Config
    from vlapack.plan.sizes import Sizes, Tensors


@dataclass(frozen=True)
class InspectedNetwork:
    """What there is to inspect, without a single weight."""

    tensors: Tensors
    architecture: Pi0Config

    @property
    def idle(self) -> list[str]:
        """The linears that inference never calls."""
        from vlapack.pi0.names import linears, never_executed

        return [name for name in linears(self.architecture) if name in never_executed(self.architecture)]

    @property
    def head_bytes(self) -> int:
        """Bytes of the vocabulary heads, which no pack stores."""
        from vlapack.checkpoints.pack.contents import without_heads
        from vlapack.plan.sizes import total_bytes

        return total_bytes(self.tensors.values()) - total_bytes(without_heads(self.tensors).values())

    def select(self, recipe: Recipe) -> list[Selected]:
        """Return the recipe's layers."""
        from vlapack.checkpoints.pack.contents import layers_of

        return layers_of(self.architecture, recipe)

    def by_layer(self, recipe: Recipe) -> Sizes:
        """Return what packing does to every layer and part of the float file."""
        from vlapack.plan.sizes import account

        return account(self.tensors, self.select(recipe), recipe)

    def pack(self, recipe: Recipe) -> PackBytes:
        """Return what the pack takes."""
        from vlapack.checkpoints.pack.contents import pack_specs, without_heads
        from vlapack.packing.pack_bytes import pack_bytes

        selected = self.select(recipe)
        return pack_bytes(
            pack_specs(without_heads(self.tensors), selected, recipe), selected, recipe, self.architecture
        )


def open_network(target: str, config: str | None) -> InspectedNetwork:
    """Describe a checkpoint folder or a repository by its headers, or a configuration by its name.

    Raises:
        InputError: There is neither such a folder nor such a name; or the folder holds a pack.
    """
    import torch

    from vlapack.checkpoints import SHIPPED, open_with
    from vlapack.checkpoints.assets import REPOSITORY
    from vlapack.checkpoints.configs import policy_config
    from vlapack.pi0.config import CONFIGS
    from vlapack.pi0.names import canonical_name, openpi_tensors

    path = from_home(target)
    if target in SHIPPED or path.is_dir() or (REPOSITORY.fullmatch(target) and not _is_configuration(path)):
        from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint

        checkpoint = open_with(target, config=config)
        architecture = checkpoint.config.architecture
        names = checkpoint.names()
        if isinstance(checkpoint, PackedCheckpoint):
            raise InputError(
                f"{target} is a pack already: inspect its parent, or check it by `vlapack verify {target}`"
            )
        tensors = {canonical_name(name): (tuple(checkpoint.shape(name)), checkpoint.dtype(name)) for name in names}
    elif os.sep in target and not _is_configuration(path):
        raise InputError(f"there is no folder {target}; give a checkpoint folder or a configuration name")
    else:
        architecture = CONFIGS[target] if target in CONFIGS else policy_config(target).architecture
        tensors = {
            name: (shape, getattr(torch, dtype)) for name, (shape, dtype) in openpi_tensors(architecture).items()
        }
    return InspectedNetwork(tensors, architecture)


def _is_configuration(path: Path) -> bool:
    """Whether a path means a JSON file, there or not."""
    return path.is_file() or path.suffix == ".json"
