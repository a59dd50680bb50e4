"""What `make bench-gpu` measures: times, comparisons of integers, and the grid."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu
from gpu import check_graph, correct, timing
from gpu.card import UNKNOWN, parsed_state
from gpu.checks import WrongError, near, rounded_alike, same
from gpu.dry import DryCard
from gpu.inputs import GRID, SHORT
from gpu.products import shapes

from vlapack.pi0.config import CONFIGS
from vlapack.pi0.recorder import Recorder


class Clock(DryCard):
    """A card whose runs take a tenth of a second each."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def run(self) -> dict[str, float]:
        self.seconds += 0.1
        return {"wall": 100.0}


@pytest.mark.parametrize(
    ("limits", "warm", "samples"),
    [
        (timing.Limits(3, 20.0, 5, 30.0), 3, 5),
        (timing.Limits(300, 1.05, 5, 30.0), 11, 5),
        (timing.Limits(3, 20.0, 200, 1.05), 3, 8),
        (timing.Limits(3, 0.0, 3, 0.0), 1, 1),
    ],
)
def test_warm_up_and_samples_end_by_number_or_by_time(limits: timing.Limits, warm: int, samples: int) -> None:
    card = Clock()
    found = timing.measured(card, card.run, limits)
    assert (found["warm_up"], found["samples"]) == (warm, samples)


def test_percentiles_are_values_that_were_measured() -> None:
    assert timing.percentiles([float(value) for value in range(200, -1, -1)]) == {"p50": 100, "p95": 190, "min": 0}
    assert timing.percentiles([7.0]) == {"p50": 7, "p95": 7, "min": 7}


def test_a_chunk_is_timed_from_its_first_replay_to_its_last() -> None:
    card = DryCard()
    watched = timing.Watched(card)
    encode, step = (watched(lambda: torch.zeros(1)) for _ in range(2))
    assert watched.milliseconds() is None
    for _ in range(2):
        watched.clear()
        encode.replay()
        for _ in range(10):
            step.replay()
        assert watched.milliseconds() == 11  # marks behind the first
        assert watched.replays == [1, 10]


def test_a_capture_that_gives_old_results_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stale(Recorder):
        def replay(self) -> None:
            """Leave what the capture has computed."""

    monkeypatch.setattr(DryCard, "capturing", lambda self: Stale)
    told = correct.verdict(DryCard(), check_graph.CHECKS["a float chunk in fp32, replayed"])
    assert told["status"] == "wrong"


def test_comparisons_find_one_integer_among_many() -> None:
    q, s = torch.randint(-127, 128, (50, 40), dtype=torch.int8), torch.rand(50, 1) + 0.5
    for change in (2, -2):
        other = q.clone()
        other[7, 3] = change if abs(int(q[7, 3]) - change) > 1 else -change
        with pytest.raises(WrongError, match="1 of 2000"):
            rounded_alike((other, s), (q, s), torch.float32, 1e-3, "q")
        with pytest.raises(WrongError, match=r"1 of 2000 differ; at \[7, 3\]"):
            same(other, q, "q")
    with pytest.raises(WrongError, match="scales differ"):
        rounded_alike((q, s * 1.001), (q, s), torch.float32, 1e-3, "q")
    with pytest.raises(WrongError, match=r"off by up to 0\.5"):
        near(s + 0.5, s, 0.4, "y")
    with pytest.raises(WrongError, match="off by up to nan"):
        near(s * torch.nan, s, 0.4, "y")


def test_a_card_that_does_not_tell_its_clocks_is_unknown() -> None:
    assert parsed_state("1980, 2619, 700.00, 113.02, 41\n") == {
        "sm_mhz": 1980,
        "memory_mhz": 2619,
        "power_limit_w": 700,
        "power_w": 113.02,
        "celsius": 41,
    }
    assert set(parsed_state("[N/A], [N/A]").values()) == {UNKNOWN}
    assert set(parsed_state("").values()) == {UNKNOWN}


def test_products_have_the_sizes_of_the_network() -> None:
    sizes = {(shape.part, shape.m) for shape in shapes(CONFIGS["pi05"])}
    assert sizes == {("expert", 10), ("expert", 50), ("llm", 544), ("vision", 768)}
    assert {(shape.n, shape.k) for shape in shapes(CONFIGS["pi05"]) if shape.part == "expert"} == {
        (2048, 1024), (256, 1024), (1024, 2048), (4096, 1024), (1024, 4096),
    }  # fmt: skip


def test_the_grid_holds_what_is_always_measured() -> None:
    assert set(SHORT) <= set(GRID)
    assert len(set(GRID)) == len(GRID)
    assert gpu.__doc__ is not None
