from __future__ import annotations

import math

import numpy as np
import pytest

from vlapack.evaluate.pooled import Counts, pooled_difference


def test_one_task_is_the_plain_difference_with_its_textbook_error() -> None:
    found = pooled_difference([Counts(160, 200, 180, 200)])
    assert found is not None
    assert found[0] == pytest.approx(-0.1)
    error = math.sqrt(0.8 * 0.2 / 200 + 0.9 * 0.1 / 200)
    assert found[1:] == pytest.approx((-0.1 - 1.96 * error, -0.1 + 1.96 * error), abs=0.001)


def test_a_policy_that_lost_easy_episodes_to_errors_is_no_worse() -> None:
    """Simpson: 90 % and 10 % in both tasks for both, but the policy has few episodes of the easy task."""
    found = pooled_difference([Counts(9, 10, 90, 100), Counts(10, 100, 10, 100)])
    assert found is not None
    assert found[0] == pytest.approx(0.0)
    assert 19 / 110 - 100 / 200 < -0.3


def test_a_task_that_only_one_has_played_says_nothing() -> None:
    both = Counts(5, 10, 8, 10)
    assert pooled_difference([both, Counts(0, 0, 7, 10)]) == pooled_difference([both])
    assert pooled_difference([Counts(0, 0, 7, 10)]) is None


@pytest.mark.parametrize(("tasks", "episodes"), [(3, 60), (60, 3)])
def test_it_covers_the_difference_as_often_as_it_says_in_few_large_tasks_and_many_small_ones(
    tasks: int, episodes: int
) -> None:
    draw, drop, runs, covered = np.random.default_rng(0), 0.1, 1000, 0
    rates = np.linspace(0.3, 0.9, tasks)
    for _ in range(runs):
        ours, theirs = draw.binomial(episodes, rates - drop), draw.binomial(episodes, rates)
        found = pooled_difference(Counts(int(x), episodes, int(y), episodes) for x, y in zip(ours, theirs, strict=True))
        assert found is not None
        covered += found[1] <= -drop <= found[2]
    assert 0.93 <= covered / runs <= 0.97
