"""The packed integers of every method are those of the definitions, computed slowly in numpy (by_hand.py)."""

from __future__ import annotations

from typing import Any

import by_hand
import numpy as np
import pytest
import torch

from vlapack.ops.int4 import unpack_int4
from vlapack.plan.select import select
from vlapack.plan.selected import groups
from vlapack.quantize.calibration import InputCollector
from vlapack.quantize.groups import quantize_group
from vlapack.recipe.recipe import Recipe

ATTENTION = "paligemma_with_expert.gemma_expert.model.layers.0.self_attn"

CASES: dict[str, dict[str, Any]] = {
    "rtn": {"rotation": "none", "permute": False},
    "hadamard": {"rotation": "hadamard", "permute": False, "group_size": 32},
    "svd, distinct": {"rotation": "svd", "shared_block": False, "smooth": 0.15},
    "ours": {},
    "ours, W8A4, groups": {"weight_bits": 8, "act_bits": 4, "group_size": 32},
    "duquant": {"rotation": "greedy", "order": "rotate_permute_rotate", "smooth": 0.3},
    "gptq": {"rounding": "gptq"},
    "gptq, A16, groups": {"rounding": "gptq", "act_bits": 16, "group_size": 32},
    "gptq, A4": {"rounding": "gptq", "act_bits": 4, "rotation": "hadamard"},
    "gptq, static": {"rounding": "gptq", "act_scale": "static", "act_percentile": 99.0, "smooth": 0.15},
    "gptq, W8, duquant": {"rounding": "gptq", "weight_bits": 8, "rotation": "greedy", "order": "rotate_permute_rotate"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("rows", "channels", "tokens"), [((5, 3, 2), 48, 90), ((1,), 8, 1), ((7,), 72, 40)])
def test_integers_and_scales_are_those_of_the_definitions(
    case: str, rows: tuple[int, ...], channels: int, tokens: int
) -> None:
    recipe = Recipe(block=8, seed=5, **CASES[case])
    draw = torch.Generator().manual_seed(1)
    names = [f"{ATTENTION}.{letter}_proj" for letter in "qkv"[: len(rows)]]
    strength = torch.rand(channels, generator=draw) * 3 + 0.1
    weights = [torch.randn(count, channels, generator=draw) / strength for count in rows]
    x = torch.randn(tokens, channels, generator=draw) * strength
    collector = InputCollector("the input")
    collector.update(x)
    shapes = {name: tuple(weight.shape) for name, weight in zip(names, weights, strict=True)}
    (group,) = groups(select(shapes, recipe), recipe)
    stored = {f"{name}.weight": weight for name, weight in zip(names, weights, strict=True)}
    packed = quantize_group(stored.__getitem__, group, recipe, collector.inputs()).tensors

    noise = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(recipe.seed))
    expected = by_hand.quantize(
        [weight.numpy() for weight in weights],
        x.numpy(),
        {
            **{field: getattr(recipe, field) for field in ("smooth", "order", "rotation", "block", "permute")},
            **{field: getattr(recipe, field) for field in ("act_bits", "weight_bits", "group_size", "rounding")},
            "shared": recipe.shared_block,
            "static": recipe.act_percentile if recipe.act_scale == "static" else None,
            "noise": noise.numpy(),
        },
    )
    for name, integers, scale in zip(names, *expected, strict=True):
        found = (
            packed[f"{name}.weight"]
            if recipe.weight_bits == 8
            else unpack_int4(packed[f"{name}.weight_packed"], channels)
        )
        assert np.allclose(packed[f"{name}.weight_scale"].float().numpy(), scale, rtol=1e-6)
        assert np.array_equal(found.numpy(), integers)
