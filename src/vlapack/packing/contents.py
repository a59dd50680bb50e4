"""What a pack holds: every tensor from names and shapes, and a check of a folder against that."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.tensorlayout import TensorSpec
from vlapack.errors import InputError
from vlapack.packing.parent import layers_of
from vlapack.pi0.names import EMBEDDING, EXPERT_HEAD, TIED_EMBEDDING, openpi_tensors
from vlapack.plan.selected import Selected, groups
from vlapack.plan.sizes import Tensors, packed_tensors, rewritten
from vlapack.recipe.recipe import Recipe


def untouched(tensors: Tensors, selected: Sequence[Selected], recipe: Recipe) -> Tensors:
    """Return the tensors that a pack stores as the parent holds them.

    That is all but packed weights, tensors that take folded steps, and 8-bit embeddings.
    """
    replaced = {f"{layer.name}.weight" for layer in selected} | rewritten(tensors, selected).keys()
    if recipe.embedding_bits == 8:
        replaced.add(EMBEDDING)
    return {name: tensor for name, tensor in tensors.items() if name not in replaced}


def pack_specs(tensors: Tensors, selected: Sequence[Selected], recipe: Recipe) -> list[TensorSpec]:
    """Return every tensor of the pack that a network's `tensors` become, without computing one."""
    stored = dict(untouched(tensors, selected, recipe))
    for group in groups(selected, recipe):
        for layer in group:
            stored |= packed_tensors(layer, recipe, stores_transform=layer is group[0])
    stored |= rewritten(tensors, selected)
    if recipe.embedding_bits == 8:
        rows, width = tensors[EMBEDDING][0]
        stored[EMBEDDING] = ((rows, width), torch.int8)
        stored[f"{EMBEDDING}_scale"] = ((rows, 1), torch.float32)
    return [TensorSpec(name, dtype, shape) for name, (shape, dtype) in stored.items()]


def check_pack(checkpoint: PackedCheckpoint) -> None:
    """Check every tensor's checksum, and that there are exactly the tensors which recipe and architecture ask for.

    Raises:
        InputError: something is damaged, missing, too much, or of another shape; the message names it.
    """
    architecture = checkpoint.config.architecture
    recipe = Recipe.from_dict({"fold": False, **checkpoint.document["recipe"]})  # the first packs knew no folding
    selected = layers_of(architecture, recipe)
    shapes = {name: (shape, torch.float32) for name, (shape, _) in openpi_tensors(architecture).items()}
    shapes[EMBEDDING] = shapes.pop(TIED_EMBEDDING)
    del shapes[EXPERT_HEAD]
    wanted = {spec.name: spec.shape for spec in pack_specs(shapes, selected, recipe)}
    found = {name: checkpoint.shape(name) for name in checkpoint.names()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InputError(
                f"{checkpoint.path}: its recipe asks for {name} of shape {wanted.get(name)} and its weights hold "
                f"{found.get(name)}; quantize again"
            )
        checkpoint.weights.check(name)
