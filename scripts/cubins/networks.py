"""The networks whose kernels are shipped, without memory: every tensor is on `meta`.

They have the widths of π0, of π0.5 and of tiny-libero, which comes with vlapack, and few layers, since layers of one
kind launch the same kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from vlapack.linear import PackedLinear
from vlapack.ops.activation import ActivationStep
from vlapack.pi0.buffers import Buffers, Shape
from vlapack.pi0.compiled import make_ready
from vlapack.pi0.config import CONFIGS, Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import linears, never_executed, openpi_tensors
from vlapack.plan.select import select
from vlapack.plan.selected import Selected, groups
from vlapack.plan.sizes import packed_tensors
from vlapack.recipe.environment import GUIDE
from vlapack.recipe.presets import PRESETS
from vlapack.recipe.recipe import Recipe

META = torch.device("meta")
LAYERS = {"vision": 2, "llm": 5, "expert": 5}
"""Each kind of layer: nothing is added to the stream before the first; `full` has other bits in the language model's
first, next two and further layers, and in the expert's last two; the language model runs a part of its last layer."""
HORIZONS = (10, 25, 50, 100)
"""One for each tile of a product of few tokens (`ops.triton.tiles`), and one for many: batches of a server, too."""
CAMERAS = (1, 2, 3)
PROMPTS = (7, 48, 200)
"""Slots: captured runs have multiples of 16, up to 200 for π0.5 with the state in its prompt; eager ones have any."""


class Work(NamedTuple):
    """One network at one kind of work.

    Attributes:
        name: for progress and errors.
        architecture: the network's sizes.
        recipe: how it is packed.
        shapes: of the work.
    """

    name: str
    architecture: Pi0Config
    recipe: Recipe
    shapes: tuple[Shape, ...]


def recipes() -> dict[str, Recipe]:
    """Return the presets, `full` with other bits and groups, and the guide's recipe with both kinds of scales."""
    full = PRESETS["full"]
    everywhere = replace(GUIDE, scope=full.scope, row_rot="restore")
    return {
        **PRESETS,
        "full-w8": replace(full, weight_bits=8),
        "full-g128": replace(full, group_size=128),
        "full-a16": replace(full, act_bits=16),
        "guide": replace(everywhere, act_scale="per_token"),
        "guide-static": replace(everywhere, act_scale="static"),
    }


def works() -> Iterator[Work]:
    """Every network and its work."""
    for network, horizons in (("pi0", HORIZONS), ("pi05", HORIZONS), ("tiny", (CONFIGS["tiny"].action_horizon,))):
        for horizon in horizons:
            architecture = shortened(replace(CONFIGS[network], action_horizon=horizon))
            prompts = [slots for slots in PROMPTS if slots <= architecture.max_token_len]
            shapes = [Shape(1, cameras, prompt, torch.uint8) for cameras in CAMERAS for prompt in prompts]
            for name, recipe in recipes().items():
                yield Work(f"{network}, {name}, horizon {horizon}", architecture, recipe, tuple(shapes))


def shortened(architecture: Pi0Config) -> Pi0Config:
    """Return the network with so many layers in each of its stacks as `LAYERS` says."""
    parts = {part: replace(getattr(architecture, part), depth=depth) for part, depth in LAYERS.items()}
    return replace(architecture, **parts)


def packed_on_meta(architecture: Pi0Config, recipe: Recipe) -> Pi0:
    """Build a network as loading a pack onto a GPU does it: bf16, with the layers of a recipe packed."""
    model = build(architecture)
    stored = openpi_tensors(architecture)
    unread = never_executed(architecture)
    selected = select(linears(architecture), recipe, never_executed=unread, head_dim=architecture.llm.head_dim)
    for group in groups(selected, recipe):
        if not group[0].executed:
            continue
        inputs: ActivationStep | None = None
        for layer in group:
            tensors = _tensors(layer, recipe, stores_transform=inputs is None)
            if bias := stored.get(f"{layer.name}.bias"):
                tensors["bias"] = torch.empty(bias[0], dtype=getattr(torch, bias[1]), device=META)
            packed = PackedLinear.from_tensors(
                tensors,
                weight_bits=layer.weight_bits,
                group_size=recipe.group_size,
                act_bits=layer.act_bits,
                act_scale=recipe.act_scale,
                inputs=inputs,
            )
            inputs = packed.inputs
            model.set_submodule(layer.name, packed)
    for layer in selected:
        del stored[f"{layer.name}.weight"]
        stored.pop(f"{layer.name}.bias", None)

    def read(name: str) -> Tensor:
        shape, dtype = stored[name]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=META)

    load_weights(model, read, stored, torch.bfloat16, rows=read, device=META)
    make_ready(model)
    return model


def act(model: Pi0, shape: Shape) -> Buffers:
    """Run pictures, prompt and one denoise step of a shape of work; return what it ran on."""
    with torch.no_grad():
        buffers = Buffers(model, shape)
        buffers.prefix = buffers.encode()
        buffers.step()
    return buffers


def differentiate(buffers: Buffers) -> None:
    """Run one denoise step and its derivative by the actions (`vjp`); prompts and cameras do not change its kernels."""
    buffers.x_t.requires_grad_()
    torch.autograd.grad(buffers.step().sum(), buffers.x_t)


def _tensors(layer: Selected, recipe: Recipe, *, stores_transform: bool) -> dict[str, Tensor]:
    tensors = {
        name.rpartition(".")[2]: torch.empty(shape, dtype=dtype, device=META)
        for name, (shape, dtype) in packed_tensors(layer, recipe, stores_transform=stores_transform).items()
    }
    if "weight_shape" in tensors:  # the one that the process reads
        tensors["weight_shape"] = torch.tensor([layer.out_features, layer.in_features])
    return tensors
