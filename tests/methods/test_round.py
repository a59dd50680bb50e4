"""Rounding must give the nearest integers of the stated scale, and a clip no worse than any it tried."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlapack.errors import InputError
from vlapack.methods import round as rounding
from vlapack.methods.round import round_weight, step_size

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
