"""Inputs collected under a budget of memory: more runs, the same layers; and batches as a tokenizer makes them."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vlapack
from vlapack.quantize.inplace import Conversion
from vlapack.recipe.recipe import Recipe

RECIPE = Recipe(scope="", include=".", block=8, smooth=0.15, rounding="gptq", act_scale="static", rotation="greedy")


class Network(nn.Module):
    """Four linears in a row, called by name, as tokenized models are."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.runs = 0
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.runs += 1
        x = input_ids
        for layer in self.layers:
            x = layer(input=x).tanh()
        return x


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 16, generator=generator) for _ in range(3)]


ONE_LAYER = 3 * 8 * 16 * 4


@pytest.mark.parametrize(("memory", "runs"), [(4 * ONE_LAYER, 3), (2 * ONE_LAYER, 6), (ONE_LAYER, 12), (0, 12)])
def test_less_memory_means_more_runs_and_the_same_layers(memory: int, runs: int) -> None:
    model, expected = Network(), Network()
    vlapack.quantize_(expected, RECIPE, batches())
    vlapack.quantize_(model, RECIPE, iter(batches()), calib_memory=memory)
    assert model.runs == runs
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_no_more_is_held_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    conversion = Conversion(Network(), RECIPE)
    held: list[int] = []

    def run(batch: Tensor) -> None:
        conversion.root(batch)
        assert conversion._watch is not None
        held.append(sum(collector.nbytes for collector in conversion._watch._collectors.values()))

    conversion.calibrate(batches(), run, 2 * ONE_LAYER)
    assert max(held) == 2 * ONE_LAYER


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_tokenizers_output_is_spread_over_the_arguments(kind: Any) -> None:
    model, expected = Network(), Network()
    vlapack.quantize_(expected, RECIPE, batches())
    vlapack.quantize_(model, RECIPE, [kind(input_ids=batch, attention_mask=None) for batch in batches()])
    assert torch.equal(model(batches()[0]), expected(batches()[0]))


def test_a_model_that_takes_one_dict_still_gets_it() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Network()

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            result: Tensor = self.inner(batch["x"])
            return result

    model = Whole()
    vlapack.quantize_(model, RECIPE, [{"x": batch} for batch in batches()])
    assert model.inner.runs == 3
