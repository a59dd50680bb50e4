from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial

from vlapack.evaluate.statistics import Z90, Paired, drop_upper95, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 9), (81, 97), (500, 1000)])
def test_wilson_is_scipys(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("only_policy", "only_baseline"), [(0, 0), (1, 0), (0, 6), (3, 3), (4, 13), (60, 41)])
def test_mcnemar_is_the_exact_sign_test(only_policy: int, only_baseline: int) -> None:
    paired = Paired(both=5, only_policy=only_policy, only_baseline=only_baseline, neither=2)
    disagreements = only_policy + only_baseline
    expected = binomtest(only_policy, disagreements).pvalue if disagreements else 1.0
    assert paired.p_value == pytest.approx(expected, rel=1e-12)


def test_mcnemar_of_thousands_of_disagreements_does_not_overflow() -> None:
    assert 0.0 <= Paired(0, 2000, 2100, 0).p_value <= 1.0


def test_pairs_are_counted_into_the_right_corner() -> None:
    outcomes = [(True, True)] * 4 + [(True, False)] * 3 + [(False, True)] * 2 + [(False, False)]
    assert Paired.of(outcomes) == Paired(both=4, only_policy=3, only_baseline=2, neither=1)


def test_difference_interval_of_newcombes_own_example() -> None:
    assert Paired(36, 12, 2, 0).difference_interval() == pytest.approx((0.0569, 0.3404), abs=1e-4)


@pytest.mark.parametrize("cells", [(0.7, 0.05, 0.05, 0.2), (0.5, 0.2, 0.1, 0.2), (0.8, 0.1, 0.1, 0.0)])
def test_difference_interval_covers_the_truth_as_often_as_it_says(cells: tuple[float, ...]) -> None:
    n, truth, covered = 20, cells[1] - cells[2], 0.0
    for a, b, c in itertools.product(range(n + 1), repeat=3):
        if (d := n - a - b - c) >= 0:
            low, high = Paired(a, b, c, d).difference_interval()
            if low <= truth <= high:
                covered += float(multinomial.pmf([a, b, c, d], n, cells))
    assert 0.94 <= covered <= 0.999  # conservative where disagreements are rare


def test_difference_interval_mirrors_when_the_policies_change_places() -> None:
    low, high = Paired(30, 9, 4, 7).difference_interval()
    mirrored = Paired(30, 4, 9, 7).difference_interval()
    assert mirrored == pytest.approx((-high, -low), abs=1e-12)


def test_agreement_narrows_the_interval() -> None:
    def width(paired: Paired) -> float:
        low, high = paired.difference_interval()
        return high - low

    assert width(Paired(50, 0, 0, 10)) < width(Paired(45, 5, 5, 5))
    assert math.isclose(Paired(50, 0, 0, 10).difference, 0.0)


def pairs_of(policy: np.ndarray, baseline: np.ndarray) -> list[tuple[int, bool, bool]]:
    """Outcomes [starts, noise seeds] of both as pairs."""
    return [
        (start, bool(ours), bool(theirs))
        for start, (row, parents) in enumerate(zip(policy, baseline, strict=True))
        for ours, theirs in zip(row, parents, strict=True)
    ]


def test_the_bound_covers_the_drop_as_often_as_it_says_where_starts_matter() -> None:
    """A tenth of all starts are lost under every noise. Taking pairs as independent covers far too seldom."""
    draw, starts, seeds, lost, runs = np.random.default_rng(0), 120, 10, 0.1, 150
    clustered = independent = 0
    for _ in range(runs):
        baseline = draw.random((starts, seeds)) < 0.97
        policy = (draw.random((starts, seeds)) < 0.97) & ~(draw.random((starts, 1)) < lost)
        pairs = pairs_of(policy, baseline)
        clustered += drop_upper95(pairs) >= lost * 0.97
        independent -= Paired.of((ours, theirs) for _, ours, theirs in pairs).difference_interval(Z90)[0] < lost * 0.97
    assert 0.91 <= clustered / runs <= 0.99
    assert 1 + independent / runs < 0.85


def test_the_bound_of_starts_played_once_is_the_plain_paired_one() -> None:
    draw = np.random.default_rng(1)
    baseline, policy = draw.random((400, 1)) < 0.95, draw.random((400, 1)) < 0.9
    pairs = pairs_of(policy, baseline)
    plain = -Paired.of((ours, theirs) for _, ours, theirs in pairs).difference_interval(Z90)[0]
    assert plain <= drop_upper95(pairs) == pytest.approx(plain, abs=0.005)


def test_a_loss_that_was_not_seen_is_not_excluded() -> None:
    for starts, seeds in ((1, 1), (12, 1), (20, 10)):
        same = np.ones((starts, seeds), dtype=bool)
        expected = -Paired(starts * seeds, 0, 0, 0).difference_interval(Z90)[0]
        assert drop_upper95(pairs_of(same, same)) == expected > 0
    assert drop_upper95([]) == 1.0


def test_the_bound_is_the_same_at_every_call_whatever_the_order() -> None:
    draw = np.random.default_rng(2)
    pairs = pairs_of(draw.random((30, 4)) < 0.8, draw.random((30, 4)) < 0.9)
    assert drop_upper95(pairs) == drop_upper95(pairs) == pytest.approx(drop_upper95(pairs[::-1]), abs=0.01)
