"""GPTQ must be the paper's elimination, do better than rounding to the nearest, and survive dead channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlapack.errors import InputError
from vlapack.methods import gptq
from vlapack.methods.gptq import gptq_weight
from vlapack.methods.round import column_scale, round_weight


def correlated(channels, tokens, seed=0):
    """H of inputs that have strong common directions, in float64."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, dtype=torch.float64, generator=draw)
    mix *= torch.logspace(0, -2, channels, dtype=torch.float64)[:, None]
    x = torch.randn(tokens, channels, dtype=torch.float64, generator=draw) @ mix
    return x.T @ x


def eliminate(weight, hessian, scale, bits, damping):
    """Optimal brain quantization written plainly: invert H, and take each used channel out of the inverse."""
    w, h = weight.astype(np.float64).copy(), hessian.copy()
    diagonal = hessian.diagonal()
    mean = diagonal[diagonal > 0].mean()
    h[np.diag_indices(len(h))] += np.where(diagonal > 0, damping * mean, mean)
    inverse = np.linalg.inv(h)
    q, low = np.zeros(w.shape), -(2 ** (bits - 1))
    for j in np.argsort(-diagonal, kind="stable"):
        q[:, j] = np.clip(np.rint(w[:, j] / scale[:, j]), low, -low - 1)
        w -= np.outer((w[:, j] - q[:, j] * scale[:, j]) / inverse[j, j], inverse[j])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        w[:, j] = 0
    return q


def loss(weight, q, scale, group_size, hessian):
    error = (q * column_scale(scale, weight.shape[1], group_size)).double() - weight.double()
    return float(((error @ hessian) * error).sum())


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize(("rows", "channels", "bits"), [(1, 1, 4), (3, 33, 4), (7, 70, 8), (1, 150, 4), (11, 269, 4)])
def test_integers_are_those_of_a_plain_elimination(rows, channels, bits, group_size):
    weight = torch.randn(rows, channels)
    hessian = correlated(channels, 2 * channels + 3)
    q, scale = gptq_weight(weight, hessian, bits, group_size)
    wide = column_scale(scale, channels, group_size).expand(rows, channels).double().numpy()
    expected = eliminate(weight.numpy(), hessian.numpy(), wide, bits, gptq.DAMPING)
    assert np.array_equal(q.numpy(), expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("bits", [4, 8])
def test_outputs_are_never_worse_than_those_of_the_nearest_integers(bits, group_size, seed):
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(seed))
    hessian = correlated(96, 200, seed)
    nearest = loss(weight, *round_weight(weight, bits, group_size=group_size), group_size, hessian)
    assert loss(weight, *gptq_weight(weight, hessian, bits, group_size), group_size, hessian) < nearest


def test_scales_are_those_of_round_weight_so_packing_keeps_the_order_of_columns():
    weight, hessian = torch.randn(5, 70), correlated(70, 150)
    assert torch.equal(gptq_weight(weight, hessian, 4, 32)[1], round_weight(weight, 4, group_size=32)[1])


def test_uncorrelated_inputs_leave_nothing_to_make_up_for():
    weight = torch.randn(5, 40)
    q, _ = gptq_weight(weight, torch.rand(40, dtype=torch.float64).diag(), 4)
    assert torch.equal(q, round_weight(weight, 4)[0])


@pytest.mark.parametrize("dead", [[0], [3, 17, 39], list(range(40))])
def test_dead_channels_are_rounded_to_the_nearest_and_disturb_no_other(dead):
    weight, hessian = torch.randn(6, 40), correlated(40, 90)
    hessian[dead], hessian[:, dead] = 0, 0
    q, scale = gptq_weight(weight, hessian, 4)
    assert torch.equal(q[:, dead], round_weight(weight, 4)[0][:, dead])
    assert loss(weight, q, scale, None, hessian) <= loss(weight, *round_weight(weight, 4), None, hessian)


def test_fewer_tokens_than_channels_are_enough():
    weight, hessian = torch.randn(4, 64), correlated(64, 5).float()
    q, scale = gptq_weight(weight, hessian, 4)
    assert loss(weight, q, scale, None, hessian.double()) < loss(
        weight, *round_weight(weight, 4), None, hessian.double()
    )


def test_the_result_does_not_depend_on_how_much_is_in_work_at_once(monkeypatch):
    weight, hessian = torch.randn(9, 50), correlated(50, 120)
    whole = gptq_weight(weight, hessian, 4)
    monkeypatch.setattr(gptq, "COLUMNS_AT_ONCE", 7)
    monkeypatch.setattr(gptq, "ROWS_AT_ONCE", 2)
    assert all(torch.equal(a, b) for a, b in zip(gptq_weight(weight, hessian, 4), whole, strict=True))


def test_the_arguments_are_left_as_they_were():
    weight, hessian = torch.randn(3, 20), correlated(20, 50)
    before = weight.clone(), hessian.clone()
    gptq_weight(weight, hessian, 4)
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian, before[1])


@pytest.mark.parametrize(
    ("hessian", "said"),
    [
        (torch.eye(3), r"\[4, 4\], not \[3, 3\]"),
        (torch.eye(4) * torch.nan, "NaN"),
        (-torch.eye(4), "negative diagonal"),
        (torch.eye(4) + 5 * (1 - torch.eye(4)), "not positive definite"),
    ],
)
def test_a_hessian_that_cannot_be_one_is_refused(hessian, said):
    with pytest.raises(InputError, match=said):
        gptq_weight(torch.ones(2, 4), hessian, 4)
