"""What is kept of a layer's inputs is of the tokens that it really sees, whatever their number, order and size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vlapack.errors import InputError
from vlapack.quantize.calibration import InputCollector, collect, watch


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def gathered(rows: torch.Tensor, sizes: list[int], **options: int) -> torch.Tensor:
    collector = InputCollector("layer", **options)
    for part in rows.split(sizes):
        collector.update(part)
    return collector.inputs().sample


def test_everything_is_kept_of_few_tokens() -> None:
    network = model()
    batches = [torch.randn(4, 6, 5), torch.randn(1, 5), torch.randn(0, 5)]
    found = collect(network, ["0", "2"], network, batches)
    rows = torch.cat([batch.reshape(-1, 5) for batch in batches])
    assert torch.equal(found["0"].absmax, rows.abs().amax(0))
    assert torch.equal(found["0"].sample, rows)
    assert torch.allclose(found["2"].absmax, network[:2](rows).amax(0))
    assert (found["0"].tokens, found["2"].tokens) == (25, 25)


@pytest.mark.parametrize("sizes", [[1000], [1] * 1000, [499, 1, 500], [3, 997]])
def test_the_sample_does_not_depend_on_how_the_tokens_come(sizes: list[int]) -> None:
    rows = torch.arange(1000.0)[:, None]
    assert torch.equal(gathered(rows, sizes, max_tokens=100, seed=3), gathered(rows, [1000], max_tokens=100, seed=3))


def test_the_sample_holds_each_token_at_most_once_and_differs_by_seed() -> None:
    rows = torch.arange(1000.0)[:, None]
    first, second = (gathered(rows, [1000], max_tokens=100, seed=seed) for seed in (0, 1))
    assert len(first.unique()) == len(second.unique()) == 100
    assert not torch.equal(first, second)


def test_every_part_of_the_observations_has_its_share() -> None:
    """Five equal parts, one after the other: each has about a fifth of every sample, the last as much as the first."""
    rows = torch.arange(5.0).repeat_interleave(200)[:, None]
    samples = [gathered(rows, [100] * 10, max_tokens=100, seed=seed) for seed in range(100)]
    shares = torch.bincount(torch.cat(samples).flatten().long()) / 10_000
    assert (shares - 0.2).abs().max() < 0.015


def test_the_largest_magnitude_is_that_of_all_tokens_not_of_the_sample() -> None:
    collector = InputCollector("layer", max_tokens=2)
    rows = torch.randn(500, 3)
    rows[7] = torch.tensor([-50.0, 40.0, 60.0])
    collector.update(rows)
    assert torch.equal(collector.inputs().absmax, torch.tensor([50.0, 40.0, 60.0]))


def test_a_model_in_bf16_is_sampled_in_bf16_and_any_other_in_fp32() -> None:
    for dtype, kept in ((torch.bfloat16, torch.bfloat16), (torch.float64, torch.float32)):
        collector = InputCollector("layer")
        collector.update(torch.ones(2, 3, dtype=dtype))
        inputs = collector.inputs()
        assert (inputs.absmax.dtype, inputs.sample.dtype) == (torch.float32, kept)


def test_hooks_are_gone_afterwards_even_after_a_failure() -> None:
    network = model()
    with pytest.raises(RuntimeError):
        watch(network, {"0": InputCollector("0")}, network, [torch.randn(2, 4)])
    assert not network[0]._forward_pre_hooks


@pytest.mark.parametrize("batches", [[torch.randn(2, 5)], [], [torch.randn(0, 5)]])
def test_a_layer_that_nothing_reaches_is_named(batches: list[torch.Tensor]) -> None:
    network = model()
    with pytest.raises(InputError, match=r"never reached 2:.*`weights_only=True`.*`rounding='rtn'`"):
        collect(network, ["2"], network[:2], batches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_an_input_that_is_no_number_names_the_layer(poison: float, dtype: torch.dtype) -> None:
    network = model().to(dtype)
    batches = [torch.ones(3, 5, dtype=dtype), torch.tensor([[1.0, 2, poison, 4, 5]], dtype=dtype)]
    with pytest.raises(InputError, match="the input of 0 holds a NaN or an infinity after 3 tokens"):
        collect(network, ["0"], network, batches)
