"""The count of kernels sees what a layer launches, and nothing that launches nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small import MIXED, SMALL, small_policy

from vlapack.bench.synthetic import synthetic_policy
from vlapack.pi0.buffers import Shape
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.launches import Launches, launches
from vlapack.pi0.load import build
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

SHAPE = Shape(batch=1, cameras=2, prompt=80, pixels=torch.float32)
STEPS = 3


def shallow(depth: int, variant: str = "pi05") -> Pi0Config:
    parts = {name: replace(getattr(SMALL, name), depth=depth) for name in ("vision", "llm", "expert")}
    return replace(SMALL, variant=variant, num_steps=STEPS, max_token_len=80, **parts)


def counted(depth: int, variant: str = "pi05", dtype: torch.dtype = torch.float32, *, fused: bool = False) -> Launches:
    return launches(build(shallow(depth, variant)).to(dtype), SHAPE, fused=fused)


def packed(depth: int, recipe: Recipe = preset("full")) -> Launches:  # noqa: B008 - frozen
    policy = small_policy(architecture=shallow(depth), discrete_state_input=False)
    return launches(synthetic_policy(policy, recipe).model, SHAPE)


def layer_of_the_language_model(recipe: Recipe) -> Counter[str]:
    """What a layer that is not the last adds to a prefix of more tokens than are handed on unfinished."""

    def encode(depth: int) -> Counter[str]:
        policy = small_policy(architecture=replace(shallow(depth), vision=SMALL.vision), discrete_state_input=False)
        return launches(synthetic_policy(policy, recipe).model, SHAPE).encode

    return encode(2) - encode(1)


def of_a_step(more: Launches, less: Launches) -> Counter[str]:
    difference = more.follow - less.follow
    assert all(count % STEPS == 0 for count in difference.values())
    return Counter({name: count // STEPS for name, count in difference.items()})


def test_a_plain_layer_of_the_expert_launches_what_it_writes_out() -> None:
    assert of_a_step(counted(2), counted(1)) == {
        "mm": 7,  # q, k, v, o, gate, up, down
        "rms_norm": 2,
        "addcmul": 4,  # each norm's scale and shift, and each gated sum
        "mul": 2 * 2 + 1,  # two rotations, gate · up
        "cat": 2,
        "add": 2,
        "copy_": 2,  # keys and values behind the prefix's
        "scaled_dot_product_attention": 1,
        "gelu": 1,
    }


def test_a_fused_layer_of_the_expert_launches_ten_kernels() -> None:
    float_layer = {"norm_transform": 2, "mm": 4, "turn_and_keep": 1, "attend_few": 2, "gelu_transform": 1}
    layer = {"norm_quantize": 2, "int_sums": 4, "turn_and_keep": 1, "attend_quantize": 2, "gelu_quantize": 1}
    assert of_a_step(counted(2, fused=True), counted(1, fused=True)) == float_layer
    assert of_a_step(packed(2), packed(1)) == layer
    assert sum(layer.values()) == sum(float_layer.values()) == 10


def test_a_layer_whose_keys_and_values_have_other_bits_takes_one_product_more() -> None:
    step = of_a_step(packed(2, MIXED), packed(1, MIXED))
    assert step == of_a_step(packed(2), packed(1)) + Counter({"int_sums": 1})
    assert step.total() == 11
    uniform = layer_of_the_language_model(preset("full-w4"))
    assert uniform.total() == 10
    assert layer_of_the_language_model(MIXED) == uniform + Counter({"int_linear": 1})


@pytest.mark.parametrize(("pattern", "more"), [("[kv]_proj", 1), ("q_proj", 1), ("v_proj", 1), ("k_proj", 2)])
def test_a_layer_of_the_tower_takes_the_products_more_that_its_bits_need(pattern: str, more: int) -> None:
    uniform = packed(1, preset("vision")).encode
    mixed = packed(1, replace(preset("vision"), overrides=((rf"layers\.0\.self_attn\.{pattern}$", 8),))).encode
    # Few tokens in this small tower, and a product that torch's attention reads is then two kernels.
    assert mixed - uniform == {"int_linear": 2 * more}


def test_a_fused_layer_of_tower_and_language_model_launches_nine_and_ten() -> None:
    # 128 prompt slots and pictures: more tokens than are handed on unfinished. One vision layer has only 8.
    more = packed(2).encode - packed(1).encode
    assert more["turn_and_keep"] == 1
    assert more["scaled_dot_product_attention"] == 2
    many = replace(SMALL.vision, image_size=112, depth=1)
    model = build(replace(shallow(1), vision=many))
    deeper = build(replace(shallow(1), vision=replace(many, depth=2)))
    vision = launches(deeper, SHAPE).encode - launches(model, SHAPE).encode
    assert vision == {"norm_transform": 2, "addmm": 4, "scaled_dot_product_attention": 1, "gelu_transform": 1}
    llm = counted(2, fused=True).encode - counted(1, fused=True).encode - vision
    assert llm == {
        "norm_transform": 2,
        "mm": 4,
        "turn_and_keep": 1,
        "scaled_dot_product_attention": 1,
        "gelu_transform": 1,
    }


@pytest.mark.parametrize(("horizon", "kernels"), [(64, 2), (65, 1)])
def test_a_product_of_few_tokens_that_an_op_of_torchs_reads_is_two_kernels(horizon: int, kernels: int) -> None:
    policy = small_policy(architecture=replace(shallow(1), action_horizon=horizon), discrete_state_input=False)
    found = launches(synthetic_policy(policy, preset("everything")).model, SHAPE).follow
    layers = {64: 0, 65: 3}[horizon]  # q/k/v, o and down are handed on where there are few tokens
    assert found["int_linear"] == STEPS * (layers + kernels * 2)  # action_in_proj and action_out_proj
    assert (found["int_sums"], found["gated_product"]) == {64: (4 * STEPS, 0), 65: (0, STEPS)}[horizon]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_chunk_is_one_prefix_and_its_steps(variant: str, fused: bool) -> None:
    found = counted(1, variant, fused=fused)
    assert found.chunk == found.encode.total() + found.follow.total()
    assert found.steps == STEPS
    assert not {"view", "slice", "transpose", "empty"} & (found.encode.keys() | found.follow.keys())


def test_a_chunk_copies_nothing_between_its_steps() -> None:
    found = counted(1, fused=True)
    assert "copy_" not in found.follow
    assert found.follow["addmm"] == 2 * STEPS  # into the expert's width and out of it
    assert found.follow["add"] == STEPS  # Euler


def test_pictures_of_uint8_are_scaled_in_two_kernels() -> None:
    model = build(shallow(1))
    scaled = launches(model, SHAPE._replace(pixels=torch.uint8)).encode - launches(model, SHAPE).encode
    assert scaled == {"div": 1, "add": 1}


def test_an_arithmetic_of_two_dtypes_launches_their_casts() -> None:
    assert (
        of_a_step(counted(2, dtype=torch.bfloat16), counted(1, dtype=torch.bfloat16))["_to_copy"] == 4
    )  # into each norm and out of it
    assert "_to_copy" not in of_a_step(
        counted(2, dtype=torch.bfloat16, fused=True), counted(1, dtype=torch.bfloat16, fused=True)
    )
