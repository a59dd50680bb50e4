"""Statistics are those of the tokens that a layer really sees, whatever their number, order and size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vlapack.calibrate import MagnitudeHistogram, Statistics, calibrate, measure_reach
from vlapack.errors import InputError


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def test_absmax_and_tokens_are_those_of_all_batches() -> None:
    network = model()
    batches = [torch.randn(4, 6, 5), torch.randn(1, 5), torch.randn(0, 5)]
    found = calibrate(network, ["0", "2"], network, batches)
    rows = torch.cat([batch.reshape(-1, 5) for batch in batches])
    assert torch.equal(found.absmax["0"], rows.abs().amax(0))
    assert torch.allclose(found.absmax["2"], network[:2](rows).amax(0))
    assert found.tokens == {"0": 25, "2": 25}


def test_hooks_are_gone_afterwards_even_after_a_failure() -> None:
    network = model()
    with pytest.raises(RuntimeError):
        calibrate(network, ["0"], network, [torch.randn(2, 4)])
    assert not network[0]._forward_pre_hooks


@pytest.mark.parametrize("percent", [50.0, 99.9, 100.0])
@pytest.mark.parametrize("size", [1, 77, 100_001])
def test_percentile_is_numpys_within_a_bucket(percent: float, size: int) -> None:
    values = torch.distributions.StudentT(2.0).sample((size, 1))
    histogram = MagnitudeHistogram(lambda x: x)
    for part in values.split(1000):
        histogram.update(part)
    exact = np.percentile(values.abs().numpy(), percent, method="inverted_cdf")
    assert exact <= histogram.percentile(percent) <= exact * 1.0079


def test_percentile_of_zeros_is_zero() -> None:
    histogram = MagnitudeHistogram(lambda x: x)
    histogram.update(torch.zeros(3, 4))
    assert histogram.percentile(99.9) == 0.0


def test_reach_is_measured_after_the_transform() -> None:
    network = model()
    x = torch.randn(50, 5)
    reach = measure_reach(network, {"0": lambda seen: seen * 10}, 100.0, network, [x])
    assert reach["0"] == pytest.approx(float(x.abs().max()) * 10, rel=0.008)


def test_a_layer_that_nothing_reaches_is_named() -> None:
    network = model()
    with pytest.raises(InputError, match=r"never reached 1 of 2 layers, first 2:.*--weights-only"):
        calibrate(network, ["0", "2"], network[:2], [torch.randn(2, 5)])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_an_input_that_is_no_number_names_the_layer(poison: float) -> None:
    network = model()
    with pytest.raises(InputError, match="the input of 0 holds a NaN or an infinity"):
        calibrate(network, ["0"], network, [torch.tensor([[1.0, 2, poison, 4, 5]])])


def test_statistics_come_back_from_their_file_exactly(tmp_path: Path) -> None:
    made = Statistics({"a.b": torch.rand(7)}, {"a.b": 0.1, "c": 3.0}, {"a.b": 12})
    made.save(tmp_path / "statistics.safetensors")
    found = Statistics.load(tmp_path / "statistics.safetensors")
    assert torch.equal(found.absmax["a.b"], made.absmax["a.b"])
    assert (found.reach, found.tokens) == (made.reach, made.tokens)
