"""Any shape survives the whole way, weights to pack to product; and inputs that carry nothing break nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlapack.errors import InputError
from vlapack.linear import PackedLinear
from vlapack.methods.transform import Transform
from vlapack.plan.select import select
from vlapack.plan.selected import groups
from vlapack.quantize.calibration import InputCollector, LayerInputs
from vlapack.quantize.groups import quantize_group
from vlapack.quantize.transforms import build_transform
from vlapack.recipe.recipe import Recipe

NAME = "paligemma_with_expert.fc1"

widths = st.one_of(st.integers(1, 40), st.sampled_from([64, 130, 4304]))
recipes = st.builds(
    Recipe,
    weight_bits=st.sampled_from([4, 8]),
    act_bits=st.sampled_from([4, 8, 16]),
    rotation=st.sampled_from(["none", "hadamard", "svd", "svd_hadamard", "greedy"]),
    block=st.sampled_from([4, 16]),
    shared_block=st.booleans(),
    permute=st.booleans(),
    smooth=st.sampled_from([0.0, 0.15, 1.0]),
    order=st.sampled_from(["permute_rotate", "rotate_permute_rotate"]),
    group_size=st.sampled_from([None, 32, 128]),
    rounding=st.sampled_from(["rtn", "gptq"]),
)


def collected(x: Tensor) -> LayerInputs:
    collector = InputCollector(NAME)
    collector.update(x)
    return collector.inputs()


def packed_layer(weight: Tensor, x: Tensor, recipe: Recipe) -> PackedLinear:
    (group,) = groups(select({NAME: tuple(weight.shape)}, recipe), recipe)
    made = quantize_group({f"{NAME}.weight": weight}.__getitem__, group, recipe, collected(x)).tensors
    tensors = {name.removeprefix(f"{NAME}."): tensor for name, tensor in made.items()}
    return PackedLinear.from_tensors(
        tensors,
        weight_bits=recipe.weight_bits,
        group_size=recipe.group_size,
        act_bits=recipe.act_bits,
        act_scale=recipe.act_scale,
    )


def fitting(recipe: Recipe, channels: int) -> Recipe:
    """The recipe, without blocks where none of four channels divides the layer."""
    return recipe if channels % 4 == 0 else replace(recipe, rotation="none", permute=False)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 7), channels=widths, tokens=st.integers(0, 5), recipe=recipes, seed=st.integers(0, 9))
def test_every_shape_packs_and_multiplies_like_its_weight(
    rows: int, channels: int, tokens: int, recipe: Recipe, seed: int
) -> None:
    recipe = fitting(recipe, channels)
    draw = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(rows, channels, generator=draw), torch.randn(20, channels, generator=draw)
    layer = packed_layer(weight, x, recipe)
    y, expected = layer(x[:tokens]), x[:tokens] @ weight.T
    assert y.shape == (tokens, rows)
    coarse = recipe.weight_bits == 4 or recipe.act_bits == 4
    largest = x[:tokens].norm(dim=1, keepdim=True) * weight.norm(dim=1)  # Cauchy and Schwarz's bound on each product
    assert ((y - expected).abs() <= largest * (0.5 if coarse else 0.05)).all()


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 5), channels=widths, recipe=recipes, seed=st.integers(0, 9))
def test_every_transform_that_can_be_built_keeps_the_product_exactly(
    rows: int, channels: int, recipe: Recipe, seed: int
) -> None:
    """In float64; the rotations' blocks are orthogonal only as far as fp32 stores them, so they are made so again."""
    recipe = fitting(recipe, channels)
    draw = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(rows, channels, generator=draw), torch.randn(9, channels, generator=draw)
    (layer,) = select({NAME: (rows, channels)}, recipe)
    made = build_transform(layer, [weight], recipe, collected(x))

    def exact(blocks: Tensor | None) -> Tensor | None:
        if blocks is None:
            return None
        u, _, v = torch.linalg.svd(blocks.double())
        assert torch.allclose(u @ v, blocks.double(), rtol=0, atol=1e-6)
        return u @ v

    scale = None if made.scale is None else made.scale.double()
    wide = Transform(scale, made.permutation, exact(made.rotation), exact(made.pre_rotation))
    product = x.double() @ weight.double().T
    found = wide.inputs(x.double()) @ wide.weight(weight.double()).T
    assert torch.allclose(found, product, rtol=0, atol=1e-10 * max(1.0, float(product.abs().max())))


RECIPES = {
    "rtn": Recipe(block=4),
    "duquant": Recipe(block=4, rotation="greedy", order="rotate_permute_rotate", smooth=0.5),
    "gptq": Recipe(block=4, rounding="gptq", group_size=32),
    "static": Recipe(block=4, rounding="gptq", act_scale="static", smooth=0.15),
}
EMPTY = {
    "constant channels": lambda x: x[:, ::3].fill_(2.5),
    "dead channels": lambda x: x[:, ::3].zero_(),
    "tokens of zeros": lambda x: x[::2].zero_(),
    "nothing but zeros": lambda x: x.zero_(),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("what", EMPTY)
def test_inputs_that_carry_nothing_give_finite_numbers(recipe: Recipe, what: str) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(6, 12, generator=draw), torch.randn(30, 12, generator=draw)
    EMPTY[what](x)
    y = packed_layer(weight, x, recipe)(x)
    assert y.isfinite().all()
    assert (y - x @ weight.T).norm() <= 0.3 * (x @ weight.T).norm()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_rows_of_zeros_and_columns_of_zeros_stay_zero(recipe: Recipe) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(6, 12, generator=draw), torch.randn(30, 12, generator=draw)
    weight[2] = 0
    weight[:, 5] = 0
    assert (packed_layer(weight, x, recipe)(x)[:, 2] == 0).all()
    assert (packed_layer(torch.zeros(6, 12), x, recipe)(x) == 0).all()


@pytest.mark.parametrize("channels", [1, 2, 6, 10])
def test_a_width_that_no_block_of_four_divides_is_named_with_what_helps(channels: int) -> None:
    with pytest.raises(InputError, match=rf"{NAME}: its {channels} input channels have no block of 4.*exclude this"):
        select({NAME: (3, channels)}, Recipe())
