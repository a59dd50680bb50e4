"""Intervals and tests for success rates: what so-and-so many episodes can and cannot say.

Single runs of 50 episodes move by 5-10 points by themselves, so a rate never stands without its interval, and two
policies are compared on the *same* episodes: only those on which they disagree carry information.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: two-sided 95 % intervals."""

Z90 = 1.6448536269514722
"""The 95 % point: one-sided 95 % bounds."""

RESAMPLES = 9999


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a success rate.

    Unlike the textbook ± interval it stays within [0, 1] and does not collapse to a point at 0 or 100 %.

    Args:
        successes: how many of the trials succeeded.
        trials: how many trials there were; none at all gives (0, 1): nothing is known.
        z: normal quantile of the wanted confidence.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    spread = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / spread
    half = z / spread * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # At 0 and at `trials` the bound is exactly 0 and 1; floating point would leave 1e-17 of it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class Paired:
    """How two policies fared on the same episodes: a 2×2 table of counts."""

    both: int
    only_policy: int
    only_baseline: int
    neither: int

    @classmethod
    def of(cls, outcomes: Iterable[tuple[bool, bool]]) -> Paired:
        """Count (policy succeeded, baseline succeeded) pairs, one per episode."""
        counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for policy, baseline in outcomes:
            counts[policy, baseline] += 1
        return cls(counts[True, True], counts[True, False], counts[False, True], counts[False, False])

    @property
    def episodes(self) -> int:
        """Number of episodes which both policies finished."""
        return self.both + self.only_policy + self.only_baseline + self.neither

    @property
    def p_value(self) -> float:
        """Exact two-sided McNemar p.

        Under "equally good", each disagreement falls to either side like a fair coin, so this is a binomial test
        of min(only_policy, only_baseline) against n = both kinds of disagreement; 1.0 if they never disagree.

        Source: Q. McNemar, Psychometrika 12 (1947); the exact form is the sign test.
        """
        disagreements = self.only_policy + self.only_baseline
        fewer = min(self.only_policy, self.only_baseline)
        tail, ways = 0, 1
        for k in range(fewer + 1):
            tail += ways
            ways = ways * (disagreements - k) // (k + 1)  # the next binomial coefficient, from this one
        return min(1.0, 2 * tail / (1 << disagreements))

    @property
    def difference(self) -> float:
        """Success rate of the policy minus that of the baseline, in -1…1; 0.0 without episodes."""
        return (self.only_policy - self.only_baseline) / self.episodes if self.episodes else 0.0

    def difference_interval(self, z: float = Z95) -> tuple[float, float]:
        """Interval of `difference`, from the two Wilson intervals and the correlation of the outcomes.

        Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based
        on paired data", Statistics in Medicine 17 (1998), method 10.
        """
        n = self.episodes
        if n == 0:
            return -1.0, 1.0
        policy, baseline = self.both + self.only_policy, self.both + self.only_baseline
        p1, p2 = policy / n, baseline / n
        (low1, high1), (low2, high2) = wilson(policy, n, z), wilson(baseline, n, z)
        phi = self._correlation(policy, baseline)

        def distance(a: float, b: float) -> float:
            return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

        low = p1 - p2 - distance(p1 - low1, high2 - p2)
        high = p1 - p2 + distance(high1 - p1, p2 - low2)
        return max(-1.0, low), min(1.0, high)

    def _correlation(self, policy: int, baseline: int) -> float:
        n = self.episodes
        margins = policy * (n - policy) * baseline * (n - baseline)
        if margins == 0:
            return 0.0
        determinant: float = self.both * self.neither - self.only_policy * self.only_baseline
        if determinant > 0:  # Newcombe's continuity correction, for agreement only
            determinant = max(determinant - n / 2, 0.0)
        return determinant / math.sqrt(margins)


def drop_upper95(pairs: Iterable[tuple[Hashable, bool, bool]]) -> float:
    """One-sided 95 % upper bound of the drop, the baseline's success rate minus the policy's.

    Episodes that share a start succeed or fail together, so ten noises on one start say less than ten starts. The
    bootstrap (BCa) therefore draws whole starts. It cannot imagine a loss that it has not seen, so where disagreements
    are rare it is too narrow: the bound is never below Newcombe's for independent pairs.

    Args:
        pairs: (start, policy succeeded, baseline succeeded), one per noise seed and start.

    Returns:
        A fraction in -1…1, the same at every call; 1.0 without pairs.

    Source: B. Efron, "Better bootstrap confidence intervals", JASA 82 (1987), by `scipy.stats.bootstrap`.
    """
    drops: dict[Hashable, list[int]] = {}
    outcomes = []
    for start, policy, baseline in pairs:
        drops.setdefault(start, []).append(int(baseline) - int(policy))
        outcomes.append((policy, baseline))
    independent = -Paired.of(outcomes).difference_interval(Z90)[0]
    sums = np.array([sum(each) for each in drops.values()], dtype=float)
    sizes = np.array([len(each) for each in drops.values()], dtype=float)
    if len(drops) < 2 or np.ptp(sums / sizes) == 0:
        return independent  # every start lost the same: there is nothing to resample
    from scipy.stats import bootstrap

    found = bootstrap(
        (sums, sizes),
        lambda lost, played, axis=-1: lost.sum(axis) / played.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=0.95,
        alternative="less",
        method="BCa",
        random_state=np.random.default_rng(0),
    )
    return max(independent, float(found.confidence_interval.high))
