"""The bytes of every part of a network: as openpi holds it, and with a recipe's layers packed.

`packed_tensors` is the one statement of what a pack stores for a layer; every byte counted here follows from it.
Rotations are stored in fp32, because in bf16 a block is no longer orthogonal (its inverse is its transpose only to 3
digits) and the transform would change the layer's result: the guide's distinct 16-wide blocks and row rotations then
save 38.7 % (LLM), 5.9 % (expert) and 52.4 % (all) of π0.5. A permutation is an exact uint16 up to 65536 channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from vlapack.errors import InputError
from vlapack.methods.round import group_count
from vlapack.plan.selected import Part, Selected, groups, part_of
from vlapack.plan.wiring import role
from vlapack.recipe.recipe import Recipe

Tensors = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name → (shape, dtype)."""


@dataclass(frozen=True)
class LayerSize:
    """One packed layer's bytes, its bias included; the transform counts where it is stored."""

    layer: Selected
    before: int
    after: int
    runtime: Runtime


@dataclass(frozen=True)
class Runtime:
    """What a layer has to do for every token beside its product, because it could not be folded away."""

    bytes: int
    """Of the transform's tensors."""
    macs_per_token: int
    """Multiply-adds: K · B for a rotation in blocks of B, K for smoothing, N · B' for a row rotation; reordering has
    none."""


@dataclass(frozen=True)
class PartSize:
    """Bytes of one part of the network, everything in it included."""

    before: int
    after: int


@dataclass(frozen=True)
class Sizes:
    """What a recipe does to a network's bytes."""

    before: int
    """The whole file, as openpi holds it."""
    after: int
    """The same file with only the selected linears (and 8-bit embedding rows) replaced."""
    layers: tuple[LayerSize, ...]
    parts: Mapping[Part, PartSize]

    @property
    def saved_fraction(self) -> float:
        """1 − after / before."""
        return 1 - self.after / self.before


def packed_tensors(
    layer: Selected, recipe: Recipe, *, stores_transform: bool = True
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return exactly what a pack stores for a layer besides its bias: full name → (shape, dtype).

    Args:
        layer: The layer, weight [N, K], rotation blocks of B channels and B' rows.
        recipe: How it is packed.
        stores_transform: Whether it is the first of its group (`select.groups`); the others use that one's transform.

    Returns:
        4 bits: `weight_packed` int32 [N, ⌈K/8⌉], `weight_shape` int64 [2]; 8 bits: `weight` int8 [N, K]; both
        `weight_scale` fp32 [N, 1], or bf16 [N, ⌈K / group_size⌉]. Where the recipe says so: `smooth` fp32 [K],
        `permutation` uint16 [K] (int32 beyond 65536), `rotation` and `pre_rotation` fp32 [1 or K/B, B, B],
        `row_rotation` fp32 [1 or N/B', B', B'], `input_scale` fp32 [1]. A layer that never runs has no activation
        statistics, hence neither `smooth` nor `input_scale`.
    """
    rows, columns = layer.out_features, layer.in_features
    scale_dtype = torch.float32 if layer.group_size is None else torch.bfloat16
    tensors: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "weight_scale": ((rows, group_count(columns, layer.group_size)), scale_dtype)
    }
    if layer.weight_bits == 4:
        tensors["weight_packed"] = ((rows, math.ceil(columns / 8)), torch.int32)
        tensors["weight_shape"] = ((2,), torch.int64)
    else:
        tensors["weight"] = ((rows, columns), torch.int8)
    if layer.block_out:
        count = rows // layer.block_out if recipe.distinct_row_blocks else 1
        tensors["row_rotation"] = ((count, layer.block_out, layer.block_out), torch.float32)
    if recipe.act_scale == "static" and layer.executed:
        tensors["input_scale"] = ((1,), torch.float32)
    if stores_transform:
        if recipe.smoothing and layer.executed and "smooth" not in layer.folded:
            tensors["smooth"] = ((columns,), torch.float32)
        if layer.permute and "permutation" not in layer.folded:
            tensors["permutation"] = ((columns,), torch.uint16 if columns <= 2**16 else torch.int32)
        if recipe.rotation != "none" and "rotation" not in layer.folded:
            count = columns // layer.block if recipe.distinct_blocks else 1
            for name in ("pre_rotation", "rotation") if recipe.rotates_first else ("rotation",):
                tensors[name] = ((count, layer.block, layer.block), torch.float32)
    return {f"{layer.name}.{suffix}": tensor for suffix, tensor in tensors.items()}


def rewritten(tensors: Tensors, selected: Sequence[Selected]) -> Tensors:
    """Return the float tensors that take folded steps, as a pack stores them: fp32 at least, unless only reordered.

    Args:
        tensors: every tensor of the unpacked file.
        selected: the packed layers.

    Raises:
        InputError: one is not among `tensors`.
    """
    found = {}
    for layer in selected:
        for name in layer.folded_into:
            if name not in tensors:
                raise InputError(f"{name} should take over steps of {layer.name}, and the checkpoint does not have it")
            shape, dtype = tensors[name]
            reordered = layer.folded == ("permutation",) or role(name) == "factor"
            found[name] = (shape, dtype if reordered else torch.promote_types(dtype, torch.float32))
    packed = {f"{layer.name}.weight" for layer in selected}
    return {name: tensor for name, tensor in found.items() if name not in packed}


def layer_bytes(layer: Selected, recipe: Recipe, *, stores_transform: bool = True) -> int:
    """Return the bytes of `packed_tensors`: what a pack stores for a layer besides its bias."""
    return total_bytes(packed_tensors(layer, recipe, stores_transform=stores_transform).values())


def runtime(layer: Selected, recipe: Recipe, *, stores_transform: bool = True) -> Runtime:
    """Return what is left to do when the layer runs; arguments as in `packed_tensors`."""
    macs = {
        "smooth": layer.in_features,
        "permutation": 0,
        "rotation": layer.in_features * layer.block,
        "pre_rotation": layer.in_features * layer.block,
        "row_rotation": layer.out_features * layer.block_out,
    }
    tensors = packed_tensors(layer, recipe, stores_transform=stores_transform) if layer.executed else {}
    left = {kind: tensor for name, tensor in tensors.items() if (kind := name.rpartition(".")[2]) in macs}
    return Runtime(total_bytes(left.values()), sum(macs[kind] for kind in left))


def account(tensors: Tensors, selected: Sequence[Selected], recipe: Recipe) -> Sizes:
    """Add up the bytes of a network before and after packing.

    Args:
        tensors: Every tensor of the unpacked file, named as `selected` names its layers.
        selected: The layers that `recipe` packs.
        recipe: How they are packed.

    Raises:
        InputError: A selected layer's weight is not among `tensors`.
    """
    for layer in selected:
        if f"{layer.name}.weight" not in tensors:
            raise InputError(f"{layer.name}.weight should be packed, but the checkpoint does not have it")
    leads = {group[0].name for group in groups(selected, recipe)}
    packed = {layer.name: layer_bytes(layer, recipe, stores_transform=layer.name in leads) for layer in selected}
    changed = rewritten(tensors, selected)
    before: dict[Part, int] = {}
    after: dict[Part, int] = {}
    of_layer = dict.fromkeys(packed, 0)
    biases = dict.fromkeys(packed, 0)
    embedding = _embedding(tensors)
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        old = total_bytes([tensor])
        new = total_bytes([changed.get(name, tensor)])
        if module in packed:
            of_layer[module] += old
            biases[module] += new if kind != "weight" else 0
            new = packed[module] if kind == "weight" else new
        elif name == embedding and recipe.embedding_bits == 8:
            rows, width = tensor[0]
            new = total_bytes([((rows, width), torch.int8), ((rows, 1), torch.float32)])
        part = part_of(name)
        before[part] = before.get(part, 0) + old
        after[part] = after.get(part, 0) + new
    return Sizes(
        before=sum(before.values()),
        after=sum(after.values()),
        layers=tuple(
            LayerSize(
                layer,
                of_layer[layer.name],
                packed[layer.name] + biases[layer.name],
                runtime(layer, recipe, stores_transform=layer.name in leads),
            )
            for layer in selected
        ),
        parts={part: PartSize(before[part], after[part]) for part in before},
    )


def total_bytes(tensors: Iterable[tuple[tuple[int, ...], torch.dtype]]) -> int:
    """Return the bytes of tensors given as (shape, dtype)."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in tensors)


def _embedding(tensors: Tensors) -> str | None:
    """Return the tensor whose rows embed tokens: `embed_tokens`, or the lm_head that is tied to it."""
    names = [name for name in tensors if part_of(name) == "embedding" and "gemma_expert." not in name]
    return min(names, key=lambda name: ("embed_tokens" not in name, name), default=None)
