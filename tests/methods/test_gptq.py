"""GPTQ must be the paper's elimination, do better than rounding to the nearest, and survive dead channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlapack.errors import InputError
from vlapack.methods import gptq
from vlapack.methods.gptq import gptq_weight, hessian_factor
from vlapack.methods.round import column_scale, round_weight


def correlated(channels, tokens, seed=0):
    """Inputs that have strong common directions, in float64."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, dtype=torch.float64, generator=draw)
    mix *= torch.logspace(0, -2, channels, dtype=torch.float64)[:, None]
    return torch.randn(tokens, channels, dtype=torch.float64, generator=draw) @ mix


def eliminate(weight, x, scale, bits, damping):
    """Optimal brain quantization written plainly: invert H, and take each used channel out of the inverse."""
    w, h = weight.astype(np.float64).copy(), x.T @ x
    diagonal = h.diagonal().copy()
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


def loss(weight, q, scale, group_size, x):
    error = (q * column_scale(scale, weight.shape[1], group_size)).double() - weight.double()
    return float((x.double() @ error.T).square().sum())


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize(("rows", "channels", "bits"), [(1, 1, 4), (3, 33, 4), (7, 70, 8), (1, 150, 4), (11, 269, 4)])
def test_integers_are_those_of_a_plain_elimination(rows, channels, bits, group_size):
    weight = torch.randn(rows, channels)
    x = correlated(channels, 2 * channels + 3)
    q, scale = gptq_weight(weight, hessian_factor(x), bits, group_size=group_size)
    wide = column_scale(scale, channels, group_size).expand(rows, channels).double().numpy()
    expected = eliminate(weight.numpy(), x.numpy(), wide, bits, gptq.DAMPING[0])
    assert np.array_equal(q.numpy(), expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("bits", [4, 8])
def test_outputs_are_never_worse_than_those_of_the_nearest_integers(bits, group_size, seed):
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(seed))
    x = correlated(96, 200, seed)
    nearest = loss(weight, *round_weight(weight, bits, group_size=group_size), group_size, x)
    assert loss(weight, *gptq_weight(weight, hessian_factor(x), bits, group_size=group_size), group_size, x) < nearest


def test_scales_are_those_of_round_weight_so_packing_keeps_the_order_of_columns():
    weight, x = torch.randn(5, 70), correlated(70, 150)
    assert torch.equal(
        gptq_weight(weight, hessian_factor(x), 4, group_size=32)[1], round_weight(weight, 4, group_size=32)[1]
    )


def test_uncorrelated_inputs_leave_nothing_to_make_up_for():
    weight = torch.randn(5, 40)
    q, _ = gptq_weight(weight, hessian_factor(torch.rand(40, dtype=torch.float64).diag()), 4)
    assert torch.equal(q, round_weight(weight, 4)[0])


@pytest.mark.parametrize("dead", [[0], [3, 17, 39], list(range(40))])
def test_dead_channels_are_rounded_to_the_nearest_and_disturb_no_other(dead):
    weight, x = torch.randn(6, 40), correlated(40, 90)
    x[:, dead] = 0
    q, scale = gptq_weight(weight, hessian_factor(x), 4)
    assert torch.equal(q[:, dead], round_weight(weight, 4)[0][:, dead])
    assert loss(weight, q, scale, None, x) <= loss(weight, *round_weight(weight, 4), None, x)


def test_fewer_tokens_than_channels_are_enough():
    weight, x = torch.randn(4, 64), correlated(64, 5).float()
    q, scale = gptq_weight(weight, hessian_factor(x), 4)
    assert loss(weight, q, scale, None, x.double()) < loss(weight, *round_weight(weight, 4), None, x.double())


def test_the_result_does_not_depend_on_how_much_is_in_work_at_once(monkeypatch):
    weight, x = torch.randn(9, 50), correlated(50, 120)
    whole = gptq_weight(weight, hessian_factor(x), 4)
    monkeypatch.setattr(gptq, "COLUMNS_AT_ONCE", 7)
    monkeypatch.setattr(gptq, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(gptq, "TOKENS_AT_ONCE", 50)
    monkeypatch.setattr(gptq, "COLUMNS_OF_TRIANGLE", 5)
    assert all(torch.equal(a, b) for a, b in zip(gptq_weight(weight, hessian_factor(x), 4), whole, strict=True))


def test_the_arguments_are_left_as_they_were():
    weight, x = torch.randn(3, 20), correlated(20, 50)
    factor = hessian_factor(x)
    before = [tensor.clone() for tensor in (weight, x, factor.lower)]
    gptq_weight(weight, factor, 4)
    gptq_weight(weight, hessian_factor(x), 4)
    assert all(torch.equal(a, b) for a, b in zip((weight, x, factor.lower), before, strict=True))


@pytest.mark.parametrize("channels", [1, 2, 255, 257, 1100])
def test_the_factor_is_that_of_the_damped_hessian(channels):
    x = torch.randn(channels + 40, channels, dtype=torch.float64)
    factor = hessian_factor(x)
    hessian = x.T @ x
    hessian.diagonal().add_(gptq.DAMPING[0] * hessian.diagonal().mean())
    ordered = hessian[factor.order][:, factor.order]
    inner = torch.linalg.solve_triangular(factor.lower, ordered, upper=False, unitriangular=True)
    diagonal = torch.linalg.solve_triangular(factor.lower, inner.T, upper=False, unitriangular=True)
    assert torch.allclose(diagonal, diagonal.diagonal().diag(), atol=1e-9)
    assert torch.equal(factor.lower, factor.lower.tril())
    assert (factor.lower.diagonal() == 1).all()


def test_inputs_that_single_precision_cannot_factor_are_damped_more():
    """One direction 10^5 times as strong as all others, in more channels than tokens."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 1, generator=draw) * torch.rand(1, 300, generator=draw) * 1e5
    q, scale = gptq_weight(torch.randn(4, 300, generator=draw), hessian_factor(x), 4)
    assert scale.isfinite().all()
    assert q.float().std() > 1


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.tensor([[1.0, torch.nan]]), "NaN"),
        (torch.full((1, 2), 1e30), "too large"),
        (torch.ones(0, 2), "never seen"),
    ],
)
def test_inputs_that_have_no_hessian_are_refused(x, said):
    with pytest.raises(InputError, match=said):
        hessian_factor(x)


@pytest.mark.parametrize("channels", [192, 300])
def test_the_factor_does_not_depend_on_the_number_of_threads(channels):
    x, found = correlated(channels, 1000).float(), []
    before = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(hessian_factor(x))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0].lower, other.lower) and torch.equal(found[0].order, other.order) for other in found)
