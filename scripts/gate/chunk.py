"""How many kernels a chunk of π0.5 launches, counted without a card: the network on meta, as its graphs run it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gate.floors import CAMERAS, PROMPT, architecture
from vlapack.checkpoints.pack.contents import layers_of
from vlapack.linear import PackedLinear
from vlapack.ops.activation import ActivationStep
from vlapack.pi0.buffers import Shape
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.launches import Launches, launches
from vlapack.pi0.load import arithmetic, build
from vlapack.pi0.names import openpi_tensors
from vlapack.plan.selected import Selected, groups
from vlapack.plan.sizes import packed_tensors
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

DTYPE = torch.bfloat16
NETWORKS: dict[str, Recipe | None] = {
    "bf16, as GPUs run it": None,
    **{name: preset(name) for name in ("full", "llm", "quantvla", "everything")},
}


def counted(recipe: Recipe | None, *, fused: bool = True) -> Launches:
    """Count a chunk of two cameras' raw pictures, 32 tokens of prompt, a horizon of 10 and ten steps."""
    shape = Shape(batch=1, cameras=CAMERAS, prompt=PROMPT, pixels=torch.uint8)
    return launches(network(architecture(), recipe), shape, fused=fused)


def network(config: Pi0Config, recipe: Recipe | None) -> Pi0:
    """Return a network on meta in the types that it has on a GPU, float or packed by a recipe."""
    model = build(config)
    for name, parameter in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        held = nn.Parameter(parameter.to(arithmetic(name, DTYPE)), requires_grad=False)
        setattr(model.get_submodule(module), leaf, held)
    if recipe is None:
        return model
    stored = openpi_tensors(config)
    for group in groups(layers_of(config, recipe), recipe):
        if not group[0].executed:
            continue
        inputs = None
        for layer in group:
            tensors = {
                name.rpartition(".")[2]: torch.empty(shape, dtype=dtype, device="meta")
                for name, (shape, dtype) in packed_tensors(layer, recipe, stores_transform=inputs is None).items()
            }
            if f"{layer.name}.bias" in stored:
                tensors["bias"] = torch.empty(layer.out_features, dtype=DTYPE, device="meta")
            inputs = inputs or ActivationStep(tensors, act_bits=layer.act_bits, act_scale=recipe.act_scale)
            model.set_submodule(layer.name, _packed(layer, tensors, recipe, inputs))
    return model


def _packed(layer: Selected, tensors: dict[str, Tensor], recipe: Recipe, inputs: ActivationStep) -> PackedLinear:
    if "weight_shape" in tensors:
        tensors["weight_shape"] = torch.tensor([layer.out_features, layer.in_features])  # whose values are read
    return PackedLinear.from_tensors(
        tensors, weight_bits=layer.weight_bits, group_size=recipe.group_size, inputs=inputs
    )


def table() -> str:
    """Return the table of kernels a chunk."""
    lines = ["| network | pictures and prompt | ten steps | a chunk |", "|---|---|---|---|"]
    rows = {"bf16, as torch runs it": counted(None, fused=False)}
    rows |= {name: counted(recipe) for name, recipe in NETWORKS.items()}
    lines += [
        f"| {name if name.startswith('bf16') else f'`{name}`'} | {found.encode.total()} | {found.follow.total()} "
        f"| {found.chunk} |"
        for name, found in rows.items()
    ]
    return "\n".join(lines)
