"""A network of any sizes without its weights: random ones that cost the same time and memory, made where they stay.

Of the network alone, without what turns a robot's observations into its inputs: it needs torch, numpy and no other
package. Every tensor repeats one block of random numbers, since drawing three billion takes longer than running them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from vlapack.linear import PackedLinear
from vlapack.machine.gpu import CPU
from vlapack.methods.rotate import hadamard
from vlapack.ops.activation import ActivationStep
from vlapack.pi0.compiled import make_ready
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import linears, never_executed, openpi_tensors
from vlapack.pi0.savings import Savings
from vlapack.plan.select import select
from vlapack.plan.selected import Selected, groups
from vlapack.plan.sizes import packed_tensors
from vlapack.recipe.recipe import Recipe

Stored: TypeAlias = Mapping[str, tuple[tuple[int, ...], str]]
"""What `pi0.names.openpi_tensors` returns."""


def synthetic_network(
    architecture: Pi0Config,
    recipe: Recipe | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    savings: Savings = Savings(),  # noqa: B008 - it is frozen
    compile: bool = False,
    device: torch.device = CPU,
) -> Pi0:
    """Build a network with random weights, float or packed, ready to act.

    Its float tensors are held as openpi holds them. Each is made on the device, one layer at a time.

    Args:
        architecture: its sizes.
        recipe: how it is packed; None: not at all.
        dtype: of the float arithmetic.
        savings: as in `Policy.from_pretrained`, like the next.
        compile: with `torch.compile`.
        device: one that is there, a GPU with its number.

    Raises:
        InputError: the recipe does not fit the architecture.
    """
    model = build(architecture, savings)
    stored = openpi_tensors(architecture)
    if recipe is not None:
        for name in _pack(model, recipe, stored, device):
            del stored[f"{name}.weight"]
            stored.pop(f"{name}.bias", None)

    def read(name: str) -> Tensor:
        shape, kind = stored[name]
        return random_float(shape, getattr(torch, kind), device)

    def rows(name: str) -> Tensor:
        # Whichever row is read, it is the same one: the table takes no memory.
        (count, width), kind = stored[name]
        return random_float((width,), getattr(torch, kind)).expand(count, width)

    load_weights(model, read, stored, dtype, rows=rows, device=device)
    make_ready(model, compile=compile)
    return model


def random_float(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device = CPU) -> Tensor:
    """Return numbers of a size that lets activations neither vanish nor grow."""
    if len(shape) == 1:
        return torch.full(shape, 0.1, dtype=dtype, device=device)
    count = math.prod(shape)
    scaled = (_drawn(device) * math.sqrt(shape[0] / count)).to(dtype)
    # A slice would hold the whole of what it is cut from.
    return scaled.repeat(-(-count // len(scaled)))[:count].clone().view(shape)


@functools.cache
def _drawn(device: torch.device) -> Tensor:
    return torch.randn(1 << 18, generator=torch.Generator().manual_seed(0)).to(device)


def _pack(model: Pi0, recipe: Recipe, stored: Stored, device: torch.device) -> list[str]:
    """Put random packed layers in the place of those that a recipe selects; return the names of all of these."""
    config = model.config
    selected = select(linears(config), recipe, never_executed=never_executed(config), head_dim=config.llm.head_dim)
    for group in groups(selected, recipe):
        if not group[0].executed:
            continue
        first = _tensors(stored, group[0], recipe, device, stores_transform=True)
        inputs = ActivationStep(first, act_bits=group[0].act_bits, act_scale=recipe.act_scale)
        for layer in group:
            tensors = first if layer is group[0] else _tensors(stored, layer, recipe, device, stores_transform=False)
            packed = PackedLinear.from_tensors(
                tensors, weight_bits=layer.weight_bits, group_size=layer.group_size, inputs=inputs
            )
            model.set_submodule(layer.name, packed)
    return [layer.name for layer in selected]


def _tensors(
    stored: Stored, layer: Selected, recipe: Recipe, device: torch.device, *, stores_transform: bool
) -> dict[str, Tensor]:
    tensors = {
        name.rpartition(".")[2]: _random(name.rpartition(".")[2], shape, dtype, layer, device)
        for name, (shape, dtype) in packed_tensors(layer, recipe, stores_transform=stores_transform).items()
    }
    if bias := stored.get(f"{layer.name}.bias"):
        tensors["bias"] = random_float(bias[0], getattr(torch, bias[1]), device)
    return tensors


def _random(kind: str, shape: tuple[int, ...], dtype: torch.dtype, layer: Selected, device: torch.device) -> Tensor:
    """Return a tensor of a pack with values that it may have."""
    if kind == "weight_shape":  # which only this process reads
        return torch.tensor([layer.out_features, layer.in_features])
    if kind in ("weight_packed", "weight"):
        info, draw = torch.iinfo(dtype), torch.Generator(device).manual_seed(0)
        return torch.randint(info.min, info.max, shape, dtype=dtype, generator=draw, device=device)
    if kind == "permutation":
        return torch.randperm(shape[0], generator=torch.Generator().manual_seed(0)).to(dtype).to(device)
    if kind in ("rotation", "pre_rotation", "row_rotation"):
        return hadamard(shape[-1])[0].to(device, dtype).expand(shape).contiguous()
    # A scale: neutral, or such that products are about as large as their inputs.
    value = 1.0 if kind == "smooth" else 0.2 * layer.in_features**-0.5
    return torch.full(shape, value, dtype=dtype, device=device)
