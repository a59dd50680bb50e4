"""A policy of any architecture without its weights: random ones that cost the same time and memory.

For everyone who wants to know how fast π0.5 would be on a machine before copying gigabytes to it. What it answers means
nothing. Every tensor repeats one block of random numbers, since drawing three billion takes longer than running them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from vlapack.checkpoints import SHIPPED
from vlapack.checkpoints.assets import TOKENIZER_FILE
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.pack.contents import layers_of
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.linear import PackedLinear
from vlapack.methods.rotate import hadamard
from vlapack.ops.activation import ActivationStep
from vlapack.pi0.compiled import make_ready
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import openpi_tensors
from vlapack.pi0.savings import Savings
from vlapack.plan.selected import Selected, groups
from vlapack.plan.sizes import packed_tensors
from vlapack.policy.placing import usable
from vlapack.policy.policy import Policy
from vlapack.recipe.recipe import Recipe

Stored: TypeAlias = Mapping[str, tuple[tuple[int, ...], str]]
"""What `pi0.names.openpi_tensors` returns."""


def synthetic_policy(
    config: PolicyConfig,
    recipe: Recipe | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    savings: Savings = Savings(),  # noqa: B008 - it is frozen
    compile: bool = False,
    device: str | torch.device = "cpu",
) -> Policy:
    """Build a policy with random weights, float or packed by a recipe; other arguments as in `Policy.from_pretrained`.

    Its float tensors are held as openpi holds them, its prompts are cut by the tokenizer of tiny-libero.

    Raises:
        InputError: the recipe does not fit the architecture.
    """
    architecture = config.architecture
    place = usable(device)
    model = build(architecture, savings)
    stored = openpi_tensors(architecture)
    if recipe is not None:
        for name in _pack(model, recipe, stored, place):
            del stored[f"{name}.weight"]
            stored.pop(f"{name}.bias", None)

    def read(name: str) -> Tensor:
        shape, kind = stored[name]
        return random_float(shape, getattr(torch, kind))

    def rows(name: str) -> Tensor:
        # Whichever row is read, it is the same one: the table takes no memory.
        (count, width), kind = stored[name]
        return random_float((width,), getattr(torch, kind)).expand(count, width)

    load_weights(model, read, stored, dtype, rows=rows, device=place)
    make_ready(model, compile=compile)
    return Policy(model, config, normalization=_normalization(config), tokenizer=_tokenizer())


def random_float(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return numbers of a size that lets activations neither vanish nor grow."""
    if len(shape) == 1:
        return torch.full(shape, 0.1, dtype=dtype)
    count = math.prod(shape)
    scaled = (_drawn() * math.sqrt(shape[0] / count)).to(dtype)
    # A slice would hold the whole of what it is cut from.
    return scaled.repeat(-(-count // len(scaled)))[:count].clone().view(shape)


@functools.cache
def _drawn() -> Tensor:
    return torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))


def _pack(model: Pi0, recipe: Recipe, stored: Stored, device: torch.device) -> list[str]:
    """Put random packed layers in the place of those that a recipe selects; return the names of all of these."""
    selected = layers_of(model.config, recipe)
    for group in groups(selected, recipe):
        if not group[0].executed:
            continue
        first = _moved(_tensors(stored, group[0], recipe, stores_transform=True), device)
        inputs = ActivationStep(first, act_bits=group[0].act_bits, act_scale=recipe.act_scale)
        for layer in group:
            tensors = (
                first if layer is group[0] else _moved(_tensors(stored, layer, recipe, stores_transform=False), device)
            )
            packed = PackedLinear.from_tensors(
                tensors, weight_bits=layer.weight_bits, group_size=recipe.group_size, inputs=inputs
            )
            model.set_submodule(layer.name, packed)
    return [layer.name for layer in selected]


def _tensors(stored: Stored, layer: Selected, recipe: Recipe, *, stores_transform: bool) -> dict[str, Tensor]:
    tensors = {
        name.rpartition(".")[2]: _random(name.rpartition(".")[2], shape, dtype, layer)
        for name, (shape, dtype) in packed_tensors(layer, recipe, stores_transform=stores_transform).items()
    }
    if bias := stored.get(f"{layer.name}.bias"):
        tensors["bias"] = random_float(bias[0], getattr(torch, bias[1]))
    return tensors


def _moved(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a layer's tensors, without its shape, which only this process reads."""
    return {kind: tensor if kind == "weight_shape" else tensor.to(device) for kind, tensor in tensors.items()}


def _random(kind: str, shape: tuple[int, ...], dtype: torch.dtype, layer: Selected) -> Tensor:
    """Return a tensor of a pack with values that it may have."""
    if kind == "weight_shape":
        return torch.tensor([layer.out_features, layer.in_features])
    if kind in ("weight_packed", "weight"):
        info = torch.iinfo(dtype)
        return torch.randint(info.min, info.max, shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    if kind == "permutation":
        return torch.randperm(shape[0], generator=torch.Generator().manual_seed(0)).to(dtype)
    if kind in ("rotation", "pre_rotation", "row_rotation"):
        return hadamard(shape[-1])[0].to(dtype).expand(shape).contiguous()
    # A scale: neutral, or such that products are about as large as their inputs.
    return torch.full(shape, 1.0 if kind == "smooth" else 0.2 * layer.in_features**-0.5, dtype=dtype)


def _normalization(config: PolicyConfig) -> Normalization:
    def neutral(size: int) -> Statistics:
        return Statistics(mean=np.zeros(size), std=np.ones(size), q01=-np.ones(size), q99=np.ones(size))

    robot = config.features
    return Normalization(config.normalization, {"state": neutral(robot.state), "actions": neutral(len(robot.actions))})


def _tokenizer() -> Path:
    return SHIPPED["tiny-libero"] / TOKENIZER_FILE
