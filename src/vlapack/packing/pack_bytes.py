"""What a pack takes. One word is one number, whatever command says it: *file*, *held*, *mapped*."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.tensorlayout import TensorSpec, file_bytes
from vlapack.console import size
from vlapack.packing.held import Held
from vlapack.packing.parent import Parent
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.names import EMBEDDING
from vlapack.plan.selected import Selected, groups, part_of
from vlapack.plan.sizes import packed_tensors
from vlapack.recipe.recipe import Recipe


@dataclass(frozen=True)
class PackBytes:
    """What a pack takes, in bytes.

    Attributes:
        file: of `model.safetensors`, its header included, as `ls` lists it.
        held: of the weights in the memory of a policy that runs, on the CPU in float32.
        mapped: of the embedding, whose rows are read from the file; a part of `file`.
    """

    file: int
    held: int
    mapped: int

    def __str__(self) -> str:
        """Say all three."""
        return f"file {size(self.file)}, held {size(self.held)}, mapped {size(self.mapped)}"


def pack_bytes(
    specs: Iterable[TensorSpec], selected: Sequence[Selected], recipe: Recipe, architecture: Pi0Config
) -> PackBytes:
    """Count the bytes of a pack, be it made or not.

    Args:
        specs: its tensors.
        selected: its packed layers.
        recipe: how they are packed.
        architecture: the network.
    """
    there = list(specs)
    tensors = {spec.name: (spec.shape, spec.dtype) for spec in there}
    counted = Held(tensors, architecture)
    leads = [group[0] for group in groups(selected, recipe)]
    packed = {name for layer in selected for name in packed_tensors(layer, recipe)}
    held = counted.fixed + sum(counted.stored(name) for name in tensors if name not in packed)
    held += sum(counted.layer(layer, recipe) for layer in selected)
    held += sum(counted.transform(lead, recipe) for lead in leads)
    mapped = sum(spec.nbytes for spec in there if spec.name.startswith(EMBEDDING))
    return PackBytes(file_bytes(there), held, mapped)


def bytes_of(checkpoint: PackedCheckpoint) -> PackBytes:
    """Count the bytes of a pack that is there."""
    specs = [TensorSpec(name, checkpoint.dtype(name), tuple(checkpoint.shape(name))) for name in checkpoint.names()]
    layers, recipe = list(checkpoint.contents.layers.values()), checkpoint.contents.recipe
    return pack_bytes(specs, layers, recipe, checkpoint.config.architecture)


def bytes_by_part(parent: Parent, specs: Sequence[TensorSpec]) -> dict[str, tuple[int, int]]:
    """Return the bytes of every part in the parent and in the pack's file: part → (before, after)."""
    parts: dict[str, tuple[int, int]] = {}
    before = [(TensorSpec(name, dtype, shape), 0) for name, (shape, dtype) in parent.tensors.items()]
    for spec, side in (*before, *((spec, 1) for spec in specs)):
        old, new = parts.get(part_of(spec.name), (0, 0))
        parts[part_of(spec.name)] = (old, new + spec.nbytes) if side else (old + spec.nbytes, new)
    if unread := parent.nbytes - sum(old for old, _ in parts.values()):
        parts["vocabulary heads"] = (unread, 0)
    parts["header"] = (0, file_bytes(specs) - sum(new for _, new in parts.values()))
    return parts
