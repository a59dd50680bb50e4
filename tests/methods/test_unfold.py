"""Folded steps are found again from rounded weights, even where one of them is damaged."""

from __future__ import annotations

import pytest
import torch

from vlapack.methods.fold import FOLDS
from vlapack.methods.round import column_scale, round_weight
from vlapack.methods.transform import Transform
from vlapack.methods.unfold import found_order, found_scale


def rounded(weight: torch.Tensor) -> torch.Tensor:
    integers, scales = round_weight(weight, 4)
    return integers * column_scale(scales, weight.shape[1], None)


def test_an_order_is_found_in_4_bit_weights_although_one_of_three_is_garbage() -> None:
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(200, generator=draw)
    gate, up, down = (torch.randn(200, 48, generator=draw) for _ in range(3))
    pairs = [(gate, rounded(gate[order])), (up, torch.randn(200, 48, generator=draw)), (down, rounded(down[order]))]
    assert torch.equal(found_order(pairs), order)
    scaled = [(gate, 3 * gate[order]), (up, up[order] * torch.rand(200, 1, generator=draw))]
    assert torch.equal(found_order(scaled), order)


def test_what_is_found_is_an_order_even_where_nothing_tells_rows_apart() -> None:
    draw = torch.Generator().manual_seed(1)
    garbage = found_order([(torch.randn(64, 8, generator=draw), torch.randn(64, 8, generator=draw))])
    assert torch.equal(garbage.sort().values, torch.arange(64))
    equal = found_order([(torch.ones(16, 4), torch.ones(16, 4))])
    assert torch.equal(equal.sort().values, torch.arange(16))


@pytest.mark.parametrize(("role", "shape"), [("made", (96, 40)), ("made", (96,)), ("one_plus", (96,))])
def test_a_factor_is_found_however_the_channels_are_made(role: str, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(2)
    before = torch.randn(shape, generator=draw) + 2
    scale = torch.rand(96, generator=draw) + 0.5
    after = FOLDS[role](before, Transform(scale=scale))
    assert torch.allclose(found_scale(before, after, role), scale, rtol=1e-4)


def test_a_factor_is_found_in_scale_and_shift_of_an_adaptive_norm() -> None:
    draw = torch.Generator().manual_seed(3)
    before = torch.randn(3 * 32, 16, generator=draw)
    scale = torch.rand(32, generator=draw) + 0.5
    after = FOLDS["modulation"](before, Transform(scale=scale))
    assert torch.allclose(found_scale(before, after, "modulation"), scale, rtol=1e-4)
