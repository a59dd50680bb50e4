"""The search for the smallest pack under an error: few measurements, never above the bound, and a margin for chance."""

from __future__ import annotations

from math import exp, sin

import numpy as np
import pytest
from scipy.stats import norm

from vlapack.errors import InputError
from vlapack.tune.allocate import Bits, Option, Problem
from vlapack.tune.search import MOST_FIRST, MOST_POINTS, first_count, guarded, smallest_below

LAYERS = 60
KEPT = 32


@pytest.fixture
def problem() -> Problem:
    """Layers whose errors span three decades."""
    return Problem(
        {
            f"layer{n}": [
                Option(4, 5000 * (n % 7 + 1), 1e-4 * exp(3 * sin(n * n))),
                Option(8, 10000 * (n % 7 + 1), 1e-4 * exp(3 * sin(n * n) - 5)),
                Option(16, 20000 * (n % 7 + 1)),
            ]
            for n in range(LAYERS)
        },
        fixed=10_000,
    )


class Policy:
    """Answers like one: a median that is some power of what is predicted, and observations that differ."""

    def __init__(self, problem: Problem, *, ratio: float, power: float, spread: float) -> None:
        self.problem, self.ratio, self.power = problem, ratio, power
        self.factors = np.exp(spread * np.random.default_rng(0).standard_normal(KEPT))
        self.counts: list[int] = []

    def median(self, bits: Bits) -> float:
        return float(self.ratio * self.problem.error(bits) ** (self.power / 2) * np.median(self.factors))

    def __call__(self, bits: Bits, count: int) -> np.ndarray:
        self.counts.append(count)
        found: np.ndarray = self.ratio * self.problem.error(bits) ** (self.power / 2) * self.factors[:count]
        return found


@pytest.mark.parametrize(("ratio", "power"), [(1.0, 1.0), (0.3, 1.0), (9.0, 1.0), (4.0, 1.5), (0.2, 0.7)])
def test_the_smallest_pack_below_the_bound_is_found_in_few_points(problem: Problem, ratio: float, power: float) -> None:
    policy = Policy(problem, ratio=ratio, power=power, spread=0.2)
    best, *others = smallest_below(problem, 0.01, KEPT, policy)
    assert best.guarded <= 0.01
    assert policy.median(best.bits) > 0.8 * 0.01  # not far below it
    assert all(problem.nbytes(one.bits) > problem.nbytes(best.bits) for one in others if one.guarded <= 0.01)
    assert policy.counts.count(KEPT) <= MOST_POINTS
    assert policy.counts.count(first_count(KEPT)) <= MOST_FIRST
    assert sum(policy.counts) <= 4 * KEPT + MOST_FIRST * first_count(KEPT)


def test_a_bound_that_the_smallest_pack_keeps_gives_that(problem: Problem) -> None:
    policy = Policy(problem, ratio=0.1, power=1.0, spread=0.1)
    found = smallest_below(problem, 0.5, KEPT, policy)
    assert set(found[0].bits.values()) == {4}
    assert len(found) == 1


def test_an_unreachable_bound_names_the_best_and_its_bytes(problem: Problem) -> None:
    with pytest.raises(InputError, match=r"below 1e-09: the best of \d tried has .* MB held, .*`max_error="):
        smallest_below(problem, 1e-9, KEPT, lambda bits, count: np.full(count, 2e-5))


def test_the_fewer_observations_the_more_is_held_in_reserve() -> None:
    reserves = []
    for count in (16, 32, 1024):
        deviations = np.exp(0.8 * norm.ppf((np.arange(count) + 0.5) / count))
        reserves.append(guarded(deviations) / np.median(deviations))
    assert reserves[0] > reserves[1] > reserves[2] == 1.0


def test_equal_observations_need_no_reserve() -> None:
    assert guarded(np.full(16, 0.01)) == pytest.approx(0.01)
