"""The walk's integers are those of the formulas, written again in numpy, on shapes that fit nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops.int4 import unpack_int4
from vlapack.plan.select import select
from vlapack.plan.selected import groups
from vlapack.plan.sizes import packed_tensors
from vlapack.quantize.calibration import InputCollector, LayerInputs
from vlapack.quantize.groups import QuantizedGroup, quantize, quantize_group, weights_only
from vlapack.recipe.environment import GUIDE
from vlapack.recipe.recipe import Recipe

ATTENTION = "paligemma_with_expert.gemma_expert.model.layers.0.self_attn"
SHAPES = {f"{ATTENTION}.q_proj": (40, 24), f"{ATTENTION}.k_proj": (8, 24), f"{ATTENTION}.v_proj": (8, 24)}
ODD = {"paligemma_with_expert.fc2": (21, 4304)}
ONE = {"paligemma_with_expert.fc1": (1, 12)}

NEAREST = Recipe(rounding="rtn", rotation="svd_hadamard")
RECIPES = {
    "ours": Recipe(),
    "to the nearest": NEAREST,
    "ours, everything on": Recipe(block=8, shared_block=False, row_rot="restore", smooth=0.15, act_scale="static"),
    "hadamard W8A16": Recipe(rotation="hadamard", weight_bits=8, act_bits=16, permute=False),
    "plain": Recipe(rotation="none", permute=False, rounding="rtn"),
    "DuQuant's order": Recipe(order="rotate_permute_rotate", smooth=0.15, block=8, shared_block=False),
    "groups": Recipe(group_size=32, smooth=0.15),
    "greedy": Recipe(rotation="greedy", order="rotate_permute_rotate", smooth=0.15, block=4),
    "static": Recipe(act_scale="static", act_percentile=97),
    "W4A16, groups": Recipe(act_bits=16, group_size=32),
    "guide": replace(GUIDE, scope="paligemma_with_expert."),
}


def weights(shapes: dict[str, tuple[int, int]], seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    made = {f"{name}.weight": torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    for weight in made.values():
        weight[:, ::5] *= 8
    return made


def inputs(channels: int, tokens: int = 60) -> LayerInputs:
    draw = torch.Generator().manual_seed(9)
    collector = InputCollector("it")
    collector.update(torch.randn(tokens, channels, generator=draw) * torch.rand(channels, generator=draw) * 4)
    return collector.inputs()


def restored(packed: dict[str, np.ndarray], layer: str, leader: str, columns: int) -> np.ndarray:
    """The float weight that a pack's tensors mean, by numpy and in the order of the definitions, backwards."""
    if f"{layer}.weight_packed" in packed:
        words = packed[f"{layer}.weight_packed"].view(np.uint32)
        integers = np.stack([(words >> (4 * place)) & 15 for place in range(8)], -1).reshape(len(words), -1)
        integers = integers[:, :columns].astype(np.int64) - 8
    else:
        integers = packed[f"{layer}.weight"].astype(np.int64)
    scales = packed[f"{layer}.weight_scale"].astype(np.float64)
    weight = integers * (scales if scales.shape[1] == 1 else np.repeat(scales, 32, axis=1)[:, :columns])
    if (rows := packed.get(f"{layer}.row_rotation")) is not None:
        size = rows.shape[-1]
        for block in range(len(weight) // size):
            part = slice(block * size, (block + 1) * size)
            weight[part] = rows[block % len(rows)].astype(np.float64) @ weight[part]
    if (blocks := packed.get(f"{leader}.rotation")) is not None:
        size = blocks.shape[-1]
        for block in range(columns // size):
            part = slice(block * size, (block + 1) * size)
            weight[:, part] = weight[:, part] @ blocks[block % len(blocks)].astype(np.float64).T
    if (order := packed.get(f"{leader}.permutation")) is not None:
        unordered = np.empty_like(weight)
        unordered[:, order] = weight
        weight = unordered
    if (blocks := packed.get(f"{leader}.pre_rotation")) is not None:
        size = blocks.shape[-1]
        for block in range(columns // size):
            part = slice(block * size, (block + 1) * size)
            weight[:, part] = weight[:, part] @ blocks[block % len(blocks)].astype(np.float64).T
    return weight / packed.get(f"{leader}.smooth", np.float64(1))


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("shapes", [SHAPES, ODD, ONE], ids=["q/k/v", "K = 4304", "N = 1"])
def test_packed_weights_mean_the_float_ones(shapes: dict[str, tuple[int, int]], recipe: Recipe) -> None:
    recipe = replace(recipe, fold=False)  # a layer's own tensors do not tell what is folded
    if shapes is ONE:
        recipe = replace(recipe, row_rot="0")  # a single row has nothing to rotate with
    if shapes is ODD:
        recipe = replace(recipe, block_out=None, row_rot="0")  # 21 rows: no block divides them
    floats = weights(shapes)
    for group in groups(select(shapes, recipe), recipe):
        made = quantize_group(floats.__getitem__, group, recipe, inputs(group[0].in_features))
        arrays = {
            name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
            for name, tensor in made.tensors.items()
        }
        for layer in group:
            weight = floats[f"{layer.name}.weight"].double().numpy()
            found = restored(arrays, layer.name, group[0].name, layer.in_features)
            scale = arrays.get(f"{group[0].name}.smooth", np.float64(1))
            error = np.linalg.norm((found - weight) * scale) / np.linalg.norm(weight * scale)
            assert error == pytest.approx(made.errors[layer.name], rel=1e-3)
            assert error < (0.01 if recipe.weight_bits == 8 else 0.3)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_tensors_are_exactly_those_that_were_promised(recipe: Recipe) -> None:
    selected = select(SHAPES, recipe, never_executed={f"{ATTENTION}.q_proj"})
    for group in groups(selected, recipe):
        seen = inputs(24) if group[0].executed else None
        made = quantize_group(weights(SHAPES).__getitem__, group, recipe, seen)
        promised = {}
        for layer in group:
            promised |= packed_tensors(layer, recipe, stores_transform=layer is group[0])
        assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in made.tensors.items()} == promised


def test_integers_without_transform_are_those_of_a_plain_search() -> None:
    """For every row, the clip that loses least among all that the search may try, and half-to-even rounding."""
    name = "paligemma_with_expert.fc1"
    recipe = RECIPES["plain"]
    floats = weights({name: (9, 33)})
    (group,) = groups(select({name: (9, 33)}, recipe), recipe)
    made = quantize_group(floats.__getitem__, group, recipe, None)
    found = unpack_int4(made.tensors[f"{name}.weight_packed"], 33).numpy()
    for row, integers, scale in zip(
        floats[f"{name}.weight"].numpy(), found, made.tensors[f"{name}.weight_scale"].numpy(), strict=True
    ):
        assert np.array_equal(integers, np.clip(np.rint(row / scale), -8, 7))
        loss = np.square(integers * scale - row).sum()
        peak = np.abs(row).max() / 7
        tried = [
            np.square(np.clip(np.rint(row / (c * peak)), -8, 7) * (c * peak) - row).sum()
            for c in np.arange(0.3, 1.001, 0.05)
        ]
        assert loss <= min(tried) * (1 + 1e-5)


def test_layers_of_one_input_share_what_the_first_stores() -> None:
    (group,) = groups(select(SHAPES, Recipe()), Recipe())
    made = quantize_group(weights(SHAPES).__getitem__, group, Recipe(), inputs(24))
    assert [name for name in made.tensors if name.endswith((".rotation", ".permutation"))] == [
        f"{ATTENTION}.q_proj.permutation",
        f"{ATTENTION}.q_proj.rotation",
    ]


def test_only_one_group_is_read_at_a_time_and_finished_ones_not_at_all() -> None:
    shapes = {**SHAPES, **ONE}
    floats, log = weights(shapes), []

    def read(name: str) -> Tensor:
        log.append(f"read {name.split('.')[-2]}")
        return floats[name]

    def write(group: tuple[object, ...], packed: QuantizedGroup) -> None:
        log.append(f"wrote {len(group)}")

    blocks = weights_only(groups(select(shapes, NEAREST), NEAREST))
    quantize(read, write, blocks, NEAREST, finished=lambda group: group[0].name.endswith("fc1"))
    assert log == ["read q_proj", "read k_proj", "read v_proj", "wrote 3"]


def test_the_same_weights_give_the_same_bytes() -> None:
    (group,) = groups(select(SHAPES, NEAREST), NEAREST)
    first, second = (quantize_group(weights(SHAPES).__getitem__, group, NEAREST, None) for _ in range(2))
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


def test_a_row_of_zeros_stays_zero() -> None:
    floats = weights(ONE)
    floats["paligemma_with_expert.fc1.weight"].zero_()
    (group,) = groups(select(ONE, NEAREST), NEAREST)
    made = quantize_group(floats.__getitem__, group, NEAREST, None)
    assert made.errors == {"paligemma_with_expert.fc1": 0.0}


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("recipe", [RECIPES["ours"], RECIPES["plain"]], ids=["rotated", "plain"])
def test_weights_that_are_no_numbers_name_their_layer(recipe: Recipe, poison: float) -> None:
    floats = weights(ONE)
    floats["paligemma_with_expert.fc1.weight"][0, 3] = poison
    (group,) = groups(select(ONE, recipe), recipe)
    with pytest.raises(InputError, match=r"paligemma_with_expert\.fc1: "):
        quantize_group(floats.__getitem__, group, recipe, None)


def test_what_was_never_measured_is_never_assumed() -> None:
    for recipe, message in (
        (Recipe(smooth=0.2, rounding="rtn"), "`smooth=0`"),
        (Recipe(act_scale="static", rounding="rtn"), "`act_scale='per_token'`"),
        (Recipe(rotation="greedy", rounding="rtn"), "`rotation='hadamard'`"),
        (Recipe(), "`rounding='rtn'`"),
    ):
        (group,) = groups(select(ONE, recipe), recipe)
        with pytest.raises(InputError, match=message):
            quantize_group(weights(ONE).__getitem__, group, recipe, None)
        idle = dataclasses.replace(group[0], executed=False)
        assert quantize_group(weights(ONE).__getitem__, (idle,), recipe, None).tensors


@pytest.mark.parametrize("act_bits", [4, 8])
@pytest.mark.parametrize("percentile", [100.0, 99.9, 50.0, 1e-6])
def test_a_static_scale_puts_the_percentile_on_the_largest_integer(act_bits: int, percentile: float) -> None:
    recipe = Recipe(act_scale="static", act_bits=act_bits, act_percentile=percentile, rotation="none", permute=False)
    (group,) = groups(select(ONE, recipe), recipe)
    seen = inputs(12)
    made = quantize_group(weights(ONE).__getitem__, group, recipe, seen)
    reach = np.percentile(seen.sample.abs().numpy(), percentile, method="inverted_cdf")
    found = made.tensors["paligemma_with_expert.fc1.input_scale"].numpy()
    assert np.array_equal(found, [np.float32(reach) / np.float32(2 ** (act_bits - 1) - 1)])
