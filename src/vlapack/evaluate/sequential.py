"""Stopping as soon as enough is known: an interval that may be looked at after every episode.

A 95 % interval for a fixed number of episodes misses far more often than in 5 % of runs if one plays on until it looks
good. A confidence sequence covers the truth at all times at once, so a run may stop whenever its interval is narrow
enough. The price: about one and a half times as many episodes as a fixed number with an interval of that width.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vlapack.console import say
from vlapack.errors import InputError
from vlapack.evaluate.plan import Case, Plan
from vlapack.evaluate.store import Store

ALPHA = 0.05
POINTS = 2001
"""Candidate means; the interval is a step of the grid wider on each side than they say."""

MOST_OF_A_BET = 0.75
"""No bet stakes more than this part of the wealth on one outcome."""

FIRST_ROUND = 40
ROUND_GROWTH = 0.1
"""A round is a tenth of what was played before: each policy is loaded once a round, and few episodes are too many."""


class ConfidenceSequence:
    """An interval for the mean of a finite population that is drawn in random order without replacement.

    For every candidate mean a gambler bets that the population's mean is another one. If the candidate is true, the
    wealth is a martingale, and reaches 1/alpha at any time with probability alpha at most (Ville): candidates against
    which it did are excluded for good.

    Args:
        population: how many values there are in all.
        target: the half width that is wanted. The bets are the best ones for reaching it; the interval holds whether or
            not it is reached.
        low, high: bounds of a value.
        alpha: how probable it may be that the mean is ever outside.
        points: number of candidates.

    Source: I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024):
    the hedged capital process (section 4.4) without replacement (section 5). The stake, which may be any function of
    the past, is target / variance: what their approximately optimal one for a fixed number becomes for a fixed width.
    """

    def __init__(
        self,
        population: int,
        target: float,
        low: float = 0.0,
        high: float = 1.0,
        *,
        alpha: float = ALPHA,
        points: int = POINTS,
    ) -> None:
        self._population, self._low, self._span, self._alpha = population, low, high - low, alpha
        self._target = target / self._span
        self._means = np.linspace(0.0, 1.0, points)
        self._up = np.zeros(points)  # logarithms of both gamblers' wealth
        self._down = np.zeros(points)
        self._possible = np.ones(points, dtype=bool)
        self._sum, self._squares = 0.0, 0.25
        self.count = 0

    def add(self, values: Iterable[float]) -> None:
        """Draw the next values of the population, in the random order that was fixed before any was known."""
        for value in values:
            self._bet((value - self._low) / self._span)

    def interval(self) -> tuple[float, float]:
        """Return bounds that hold at all times at once with probability 1 - alpha."""
        step = 1.0 / (len(self._means) - 1)
        # What has been drawn leaves these for the mean, whatever the rest is.
        least, most = (self._sum + rest for rest in (0, self._population - self.count))
        low, high = least / self._population, most / self._population
        if len(left := self._means[self._possible]):  # near the end the truth may lie between two that are excluded
            low, high = max(low, left[0] - step), min(high, left[-1] + step)
        return self._low + self._span * float(low), self._low + self._span * float(high)

    def _bet(self, value: float) -> None:
        number = self.count + 1
        # The mean of what has not been drawn yet, if the candidate is the mean of all.
        rest = (self._population * self._means - self._sum) / (self._population - self.count)
        self._possible &= (rest >= 0) & (rest <= 1)
        rest = np.clip(rest, 1e-9, 1 - 1e-9)
        variance = self._squares / number
        stake = self._target / variance
        gain = value - rest
        self._up += np.log1p(np.minimum(stake, MOST_OF_A_BET / rest) * gain)
        self._down += np.log1p(-np.minimum(stake, MOST_OF_A_BET / (1 - rest)) * gain)
        self._possible &= np.maximum(self._up, self._down) < math.log(2 / self._alpha)
        self._sum += value
        self.count = number
        self._squares += (value - (0.5 + self._sum) / (number + 1)) ** 2


class Stopping:
    """Decides after which round of episodes a comparison knows enough.

    The value of an episode is whether the policy succeeded, minus, if there is a baseline, whether that did. The cases
    are played in a random order that the plan's seed decides, and their mean over the whole plan is what the interval
    covers. A case that the simulator could not play is left out.

    Args:
        plan: all the episodes that would be played.
        half_width: of the interval that is wanted, in 0…1.
        policy: the role of the policy.
        baseline: the role of what it is compared with. One that the plan does not have is none.

    Attributes:
        roles: of those who play for it.

    Raises:
        InputError: the width is none that an interval can have.
    """

    def __init__(self, plan: Plan, half_width: float, policy: str = "policy", baseline: str = "baseline") -> None:
        if not 0 < half_width < 1:
            raise InputError(f"`until_ci={half_width}`: a half width is above 0 and below 1, such as 0.03 for 3 points")
        self.half_width = half_width
        self._cases = plan.cases()
        random.Random(plan.seed).shuffle(self._cases)
        self.roles = (policy, baseline) if baseline in plan.policies else (policy,)
        self._paired = len(self.roles) > 1
        low = -1.0 if self._paired else 0.0
        self._sequence = ConfidenceSequence(len(self._cases), half_width, low)

    def rounds(self) -> Iterator[Sequence[Case]]:
        """Cut the cases into the rounds after which the run may stop."""
        start = 0
        while start < len(self._cases):
            end = start + max(FIRST_ROUND, int(start * ROUND_GROWTH))
            yield self._cases[start:end]
            start = end

    def needs(self, role: str) -> bool:
        """Whether a role is to play the next round: here everyone, noise floors too."""
        return True

    def of(self, role: str) -> Stopping:
        """Return what stops a policy: this."""
        return self

    def enough(self, store: Store, cases: Sequence[Case]) -> bool:
        """Take in a round that was played; return whether the interval is narrow enough, and say so."""
        self._sequence.add(value for case in cases if (value := self._value(store, case)) is not None)
        low, high = self._sequence.interval()
        what = "difference" if self._paired else "success rate"
        who = "" if self.roles[0] == "policy" else f"{self.roles[0]}: "
        say(
            f"{who}after {self._sequence.count} of {len(self._cases)} cases: {what} {100 * low:+.1f} to "
            f"{100 * high:+.1f} points at any time; half width {50 * (high - low):.1f}, wanted "
            f"{100 * self.half_width:.1f}"
        )
        return self.reached

    @property
    def reached(self) -> bool:
        """Whether the interval is as narrow as it is to be."""
        low, high = self._sequence.interval()
        return (high - low) / 2 <= self.half_width

    def to_dict(self) -> dict[str, Any]:
        """Return the `sequential` of a summary: what is covered, by which interval, after how many cases."""
        return {
            "of": "difference" if self._paired else "success_rate",
            "half_width_wanted": self.half_width,
            "interval95": list(self._sequence.interval()),
            "cases": self._sequence.count,
            "planned_cases": len(self._cases),
            "reached": self.reached,
        }

    def _value(self, store: Store, case: Case) -> float | None:
        records = [store.find(role, case) for role in self.roles]
        won = [record.success for record in records if record is not None and record.success is not None]
        if len(won) < len(records):
            return None
        return float(won[0]) - (float(won[1]) if self._paired else 0.0)
