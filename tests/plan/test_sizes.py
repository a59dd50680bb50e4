"""Sizes are promises: each is compared with tensors that were really made, or with arithmetic done by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from vlapack.errors import InputError
from vlapack.pi0.config import CONFIGS
from vlapack.pi0.names import linears, never_executed, openpi_tensors
from vlapack.plan.select import select
from vlapack.plan.selected import groups
from vlapack.plan.sizes import Sizes, account, layer_bytes, packed_tensors
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import quantize_group
from vlapack.recipe.choice import Choice
from vlapack.recipe.environment import GUIDE
from vlapack.recipe.presets import GUIDE_SCOPES, PRESETS
from vlapack.recipe.recipe import Recipe

PI05 = CONFIGS["pi05_libero"]
TENSORS = {name: (shape, getattr(torch, dtype)) for name, (shape, dtype) in openpi_tensors(PI05).items()}
ATTENTION = "paligemma_with_expert.gemma_expert.model.layers.0.self_attn."
MLP = "paligemma_with_expert.gemma_expert.model.layers.0.mlp."


def size(recipe: Recipe) -> Sizes:
    idle = never_executed(PI05)
    return account(TENSORS, select(linears(PI05), recipe, never_executed=idle), recipe)


def guide(place: str) -> Recipe:
    return replace(GUIDE, scope=GUIDE_SCOPES[place])


@pytest.mark.parametrize(
    ("recipe", "percent", "within"),
    [
        (PRESETS["llm-w4"], 39.8, 0.3),
        (PRESETS["dit-w4"], 6.2, 0.3),
        (PRESETS["dit-fast"], 6.2, 0.3),
        (PRESETS["full-w4"], 54.3, 0.3),
        (PRESETS["quantvla"], 44.3, 0.3),
        (guide("LLM"), 38.7, 0.1),
        (guide("DiT (action expert)"), 5.9, 0.1),
        (guide("everything"), 52.4, 0.1),
    ],
)
def test_the_designs_savings(recipe: Recipe, percent: float, within: float) -> None:
    sizes = size(recipe)
    assert abs(sizes.before - 7.473e9) < 1e6
    assert 100 * sizes.saved_fraction == pytest.approx(percent, abs=within)


UGLY = {
    f"{ATTENTION}q_proj": (24, 4304),
    f"{ATTENTION}k_proj": (3, 4304),
    f"{ATTENTION}v_proj": (1, 4304),
    f"{MLP}down_proj": (9, 20),
}


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(rotation="none", permute=False),
        Recipe(order="rotate_permute_rotate", rotation="svd", shared_block=False),
        Recipe(order="rotate_permute_rotate", rotation="greedy", shared_block=False, rounding="gptq"),
        Recipe(rotation="svd", shared_block=False, smooth=0.2),
        Recipe(rotation="hadamard", shared_block=False, act_scale="static"),
        Recipe(rotation="svd_hadamard", shared_block=False, weight_bits=8),
        Recipe(overrides=((r"k_proj$", 8),), act_bits=16),
        Recipe(overrides=((r"k_proj$", 8),), group_size=128),
        Recipe(overrides=((r"k_proj$", Choice(8, None)), (r"down_proj$", Choice(4, 32, 16))), group_size=128),
        replace(GUIDE, row_rot="0"),
        replace(GUIDE, scope=f"{ATTENTION}q", block_out=8),
        Recipe(scope=f"{ATTENTION}q", row_rot="restore", block_out=4),
    ],
)
@pytest.mark.parametrize("idle", [frozenset(), frozenset(UGLY)])
def test_packed_tensors_are_those_that_quantization_makes(recipe: Recipe, idle: frozenset[str]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {f"{name}.weight": torch.randn(*shape, generator=generator) for name, shape in UGLY.items()}
    for group in groups(select(UGLY, recipe, never_executed=idle), recipe):
        x = torch.randn(9, group[0].in_features, generator=generator)
        inputs = LayerInputs(x.abs().amax(0), x, len(x)) if group[0].executed else None
        made = quantize_group(weights.__getitem__, group, recipe, inputs).tensors
        promised = {}
        for layer in group:
            promised |= packed_tensors(layer, recipe, stores_transform=layer is group[0])
        assert promised == {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in made.items()}
        count = sum(layer_bytes(layer, recipe, stores_transform=layer is group[0]) for layer in group)
        assert count == sum(tensor.nbytes for tensor in made.values())


def test_one_layer_by_hand() -> None:
    layer = select({"a.q_proj": (3, 20)}, Recipe(scope="a.", block=4))[0]
    packed, scales, shape, permutation, block = 3 * 3 * 4, 3 * 4, 2 * 8, 20 * 2, 4 * 4 * 4
    assert layer_bytes(layer, Recipe(scope="a.", block=4)) == packed + scales + shape + permutation + block


def test_a_permutation_of_many_channels_needs_more_than_sixteen_bits() -> None:
    for columns, dtype in ((2**16, torch.uint16), (2**16 + 64, torch.int32)):
        layer = select({"a.q_proj": (1, columns)}, Recipe(scope="a."))[0]
        assert packed_tensors(layer, Recipe(scope="a."))["a.q_proj.permutation"] == ((columns,), dtype)


def test_layers_add_up_to_the_total_and_parts_too() -> None:
    sizes = size(PRESETS["full"])
    assert sizes.before - sizes.after == sum(layer.before - layer.after for layer in sizes.layers)
    assert sizes.before == sum(part.before for part in sizes.parts.values())
    assert sizes.after == sum(part.after for part in sizes.parts.values())


def test_everything_makes_what_computes_in_fp32_smaller_too() -> None:
    sizes = size(PRESETS["everything"])
    small = [layer for layer in sizes.layers if layer.layer.part in ("adarms", "action")]
    assert sum(layer.before for layer in small) == pytest.approx(4 * 0.1188e9, rel=0.01)
    assert all(layer.after < layer.before for layer in small)


def test_an_untied_head_counts_beside_the_embedding() -> None:
    untied = dict(TENSORS)
    name = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    untied[name] = TENSORS["paligemma_with_expert.paligemma.lm_head.weight"]
    selected = select(linears(PI05), PRESETS["llm"])
    tied_size, untied_size = (account(tensors, selected, PRESETS["llm"]) for tensors in (TENSORS, untied))
    assert untied_size.before - tied_size.before == math.prod(untied[name][0]) * 2


def test_a_layer_that_the_checkpoint_lacks_is_named() -> None:
    name = "paligemma_with_expert.gemma_expert.model.layers.0.mlp.up_proj"
    tensors = {key: value for key, value in TENSORS.items() if key != f"{name}.weight"}
    with pytest.raises(InputError, match=name):
        account(tensors, select(linears(PI05), PRESETS["full"]), PRESETS["full"])
