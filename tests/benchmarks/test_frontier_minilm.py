"""MiniLM's frontier: allocations keep their budgets, and are chosen on sentences that test nothing."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import frontier_minilm
from common.mixing import ModuleMixes
from common.results import read_rows
from common.sentences import CALIBRATION, PROSE, SENSITIVITY, TEST, made_up
from frontier_minilm import PLAIN, allocated, gains, held

from vlapack.quantize.calibration import LayerInputs, collect


class Small(nn.Module):
    """Two linears that matter, and one whose output is next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.idle = (nn.Linear(128, 128, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(torch.relu(self.first(x))) + 1e-4 * self.idle(x)
        return found


@pytest.fixture(scope="module")
def mixes() -> ModuleMixes:
    torch.manual_seed(0)
    model, x = Small().requires_grad_(False), torch.randn(256, 128)

    def seen(seed: int) -> dict[str, LayerInputs]:
        return collect(model, ["first", "second", "idle"], model, [x], seed=seed)

    return ModuleMixes("small", model, seen, lambda network: {"error": error(network, model)}, "")


def error(network: nn.Module, model: nn.Module) -> float:
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    return float((network(x) - model(x)).square().mean())


def test_an_allocation_keeps_its_budget_and_spends_it_where_it_counts(mixes: ModuleMixes) -> None:
    sizes, found = held(mixes, 0), gains(mixes, lambda network: error(network, mixes._model), 0)
    plain = sum(sizes[name][PLAIN] for name in mixes.layers)
    before = mixes.measure(dict.fromkeys(mixes.layers, PLAIN), 0)["error"]
    for times in (1.0, 1.05, 1.1, 1.3):
        mix = allocated(sizes, found, times)
        network = mixes.network(mix, 0)
        really = sum(b.nbytes for name in mixes.layers for b in network.get_submodule(name).buffers())
        assert really == sum(sizes[name][choice] for name, choice in mix.items()) <= times * plain
        assert mix["idle"].weight_bits == 4
        after = mixes.measure(mix, 0)["error"]
        assert after <= before
        before = after
    assert before < 0.5 * mixes.measure(dict.fromkeys(mixes.layers, PLAIN), 0)["error"]


def test_sentences_that_measure_sensitivity_calibrate_or_test_are_others() -> None:
    sets = [set(file.read_text(encoding="utf-8").splitlines()) for file in (TEST, PROSE, SENSITIVITY)]
    sets.append({sentence for seed in frontier_minilm.SEEDS for sentence in made_up(CALIBRATION[1], seed)})
    assert all(one.isdisjoint(other) for one, other in combinations(sets, 2))
    assert len(sets[2]) == len(SENSITIVITY.read_text(encoding="utf-8").splitlines())


def test_the_picture_is_the_results() -> None:
    drawn = frontier_minilm.drawn(read_rows(frontier_minilm.RESULT))
    assert frontier_minilm.PICTURE.read_text(encoding="utf-8") == drawn
