"""Smoothing's formula, its off switch and its zero channels."""

from __future__ import annotations

import pytest
import torch

from vlapack.errors import InputError
from vlapack.methods.smooth import smoothing_scale


def test_the_formula():
    d = smoothing_scale(torch.tensor([16.0, 1.0]), torch.tensor([0.5, 4.0]), 0.25)
    assert torch.allclose(d, torch.tensor([16**0.25 / 0.5**0.75, 1 / 4**0.75], dtype=torch.float64))


def test_lambda_zero_is_no_step_rather_than_one_over_the_weights():
    assert smoothing_scale(torch.ones(3), torch.ones(3) * 5, 0.0) is None


def test_a_zero_maximum_on_either_side_leaves_the_channel_alone():
    d = smoothing_scale(torch.tensor([0.0, 2.0, 0.0]), torch.tensor([3.0, 0.0, 0.0]), 0.15)
    assert d.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("lam", [-0.1, 1.5, float("nan")])
def test_lambda_outside_zero_to_one_is_refused(lam):
    with pytest.raises(InputError, match=str(lam)):
        smoothing_scale(torch.ones(2), torch.ones(2), lam)


def test_a_maximum_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="NaN or infinite"):
        smoothing_scale(torch.tensor([torch.inf]), torch.ones(1), 0.15)
