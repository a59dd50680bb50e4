"""Rounding must give the nearest integers of the stated scale, and a clip no worse than any it tried."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vlapack.errors import InputError
from vlapack.methods import round as rounding
from vlapack.methods.round import column_scale, round_weight, step_size

SHAPES = [(1, 1), (5, 33), (7, 4304), (300, 17)]


@pytest.mark.parametrize("clip", ["mse", "absmax"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_integers_are_numpys_for_the_returned_scale(shape, bits, clip):
    weight = torch.randn(shape).exp() * torch.randn(shape).sign()
    q, scale = round_weight(weight, bits, clip)
    assert q.dtype == torch.int8
    assert scale.dtype == torch.float32
    assert scale.shape == (shape[0], 1)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    expected = np.clip(np.rint(weight.numpy() / scale.numpy()), low, high)
    assert np.array_equal(q.numpy(), expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_clip_is_no_worse_than_a_plain_search(bits):
    weight = torch.randn(40, 257, dtype=torch.float64) ** 3
    q, scale = round_weight(weight, bits)
    found = (q * scale - weight).square().sum(1).numpy()
    w = weight.numpy()
    top = 2 ** (bits - 1) - 1
    errors = []
    for clip in np.arange(0.1, 1.005, 0.05):
        s = np.abs(w).max(1, keepdims=True) * clip / top
        errors.append(((np.clip(np.rint(w / s), -top - 1, top) * s - w) ** 2).sum(1))
    assert (found <= np.min(errors, 0) * (1 + 1e-4)).all()


def test_a_negative_extreme_uses_minus_eight():
    q, scale = round_weight(torch.tensor([[-8.0, 7.0, 3.0, 1.0, -5.0, 2.0, 6.0, -4.0]]), 4)
    assert q[0, 0] == -8
    assert scale.item() == pytest.approx(1, rel=0.02)


def test_rows_of_zeros_and_of_tiny_values_have_a_usable_scale():
    q, scale = round_weight(torch.tensor([[0.0, 0.0], [1e-30, -1e-30], [1e-45, 0.0]]), 4)
    assert scale[0] == 1
    assert (scale > 0).all()
    assert q.tolist()[0] == [0, 0]
    assert torch.allclose(q[1] * scale[1], torch.tensor([1e-30, -1e-30]), rtol=0.1)


def test_the_result_does_not_depend_on_how_many_rows_are_searched_at_once(monkeypatch):
    weight = torch.randn(37, 129)
    whole = round_weight(weight, 4)
    monkeypatch.setattr(rounding, "ELEMENTS_AT_ONCE", 200)
    for a, b in zip(whole, round_weight(weight, 4), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_damaged_weights_are_refused(bad):
    with pytest.raises(InputError, match="NaN or infinite"):
        round_weight(torch.tensor([[1.0, bad]]), 4)


@pytest.mark.parametrize(("bits", "clip", "said"), [(3, "mse", "3 bits"), (4, "median", "median")])
def test_unknown_choices_are_named(bits, clip, said):
    with pytest.raises(InputError, match=said):
        round_weight(torch.ones(1, 2), bits, clip)


def test_a_step_is_one_where_the_peak_is_zero_or_vanishes():
    assert step_size(torch.tensor([0.0, 1e-45, 254.0]), 127).tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_grouped_integers_are_those_of_the_bf16_scales_that_are_stored(shape, bits, group_size):
    weight = torch.randn(shape).exp() * torch.randn(shape).sign()
    q, scale = round_weight(weight, bits, group_size=group_size)
    assert scale.dtype == torch.bfloat16
    assert scale.shape == (shape[0], math.ceil(shape[1] / group_size))
    top = 2 ** (bits - 1) - 1
    for k in range(0, shape[1], group_size):
        step = scale[:, k // group_size].float().numpy()[:, None]
        expected = np.clip(np.rint(weight[:, k : k + group_size].numpy() / step), -top - 1, top)
        assert np.array_equal(q[:, k : k + group_size].numpy(), expected)


def test_a_group_is_clipped_as_a_row_of_its_own():
    weight = torch.randn(9, 70) ** 3
    scale = round_weight(weight, 4, group_size=32)[1]
    for group, columns in enumerate(torch.split(weight, 32, dim=1)):
        assert torch.equal(scale[:, group : group + 1], round_weight(columns, 4)[1].bfloat16())


def test_groups_of_zeros_and_of_vanishing_values_have_a_usable_scale():
    weight = torch.zeros(2, 33)
    weight[1, 32] = 1e-41  # its step is zero in bf16
    q, scale = round_weight(weight, 4, group_size=32)
    assert scale[0].tolist() == [1, 1]
    assert (scale > 0).all()
    assert not q[0].any()


def test_column_scales_say_which_group_a_column_belongs_to():
    scale = torch.tensor([[1.0, 2.0]]).bfloat16()
    assert column_scale(scale, 5, 3).tolist() == [[1, 1, 1, 2, 2]]
    assert column_scale(torch.ones(4, 1), 5, None).shape == (4, 1)


def test_a_group_of_nothing_is_refused():
    with pytest.raises(InputError, match="0 channels"):
        round_weight(torch.ones(1, 2), 4, group_size=0)
