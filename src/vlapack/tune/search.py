"""The smallest pack whose measured error stays below a bound, in few measurements.

The allocation predicts a root mean square over observations, to first order. What is promised is the median over
observations of what `vlapack compare` prints. The two go together, but neither equals the other, so the one is
calibrated by the other: an allocation for a predicted error p is measured, and the next p is read off the straight line
through what was measured, in logarithms. One point takes a chunk of every observation kept back. Up to three rough
points on a third of them find the neighborhood; two to four whole ones then suffice, and six are the most.

The median of n observations is not that of all there are. So the bound is kept twice: by the median itself, and, give
or take `ALLOWANCE`, by the upper end of its bootstrap interval. With more observations kept back that end comes
closer, and less is held in reserve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlapack.errors import InputError
from vlapack.tune.allocate import Bits, Problem, cheapest, finest, smallest

ALLOWANCE = 1.2
"""By how much the median of observations that nobody has seen may exceed the bound,"""
CONFIDENCE = 0.9
"""and how sure that is to hold."""
RESAMPLES = 4000
MOST_FIRST, MOST_POINTS = 3, 6
"""Points on a third of the observations kept back, and on all."""
NEAR = 1.3
"""The factor from the bound within which a rough point suffices."""
CLOSE = 0.92
"""A measured error of this part of the bound is near enough to stop,"""
SLACK = 0.015
"""and so are bytes of this part above those of a pack that is not good enough."""
AIM = 0.975
"""The part of the bound at which the next point aims."""
WIDEST_STEP = 8.0
"""By which factor the predicted error changes at most from one point to the next."""
TINY = 1e-12
WORTH = 0.98
"""The part of the way from the smallest pack to the float policy beyond which packing saves nothing to speak of."""
FEWEST_FIRST = 8
"""Observations of the first point: a third, but not fewer."""

Measure = Callable[[Bits, int], np.ndarray]
"""(assignment, how many of the observations kept back) → their deviations."""


@dataclass(frozen=True)
class Point:
    """One assignment that was measured."""

    bits: Bits
    predicted: float
    deviations: np.ndarray = field(repr=False)

    @property
    def median(self) -> float:
        """Of the deviations."""
        return float(np.median(self.deviations))

    @property
    def guarded(self) -> float:
        """What is compared with the bound."""
        return guarded(self.deviations)


def guarded(deviations: np.ndarray) -> float:
    """Return the median, or if it is more the upper end of its one-sided interval over `ALLOWANCE`."""
    draws = np.random.default_rng(0).integers(0, len(deviations), (RESAMPLES, len(deviations)))
    upper = float(np.quantile(np.median(deviations[draws], axis=1), CONFIDENCE))
    return max(float(np.median(deviations)), upper / ALLOWANCE)


def smallest_below(problem: Problem, bound: float, count: int, measure: Measure) -> list[Point]:
    """Find the assignment of the fewest bytes whose measured error stays below a bound.

    Args:
        problem: with the bytes that count, and the predicted squared errors.
        bound: for the median deviation.
        count: of observations kept back.
        measure: runs an assignment on the first so many of them.

    Returns:
        Every point that was measured on all of them; the first is the result.

    Raises:
        InputError: no assignment stays below it; the best one is named, with its bytes.
    """
    least = tightest(problem)
    largest, most = math.sqrt(problem.error(least)), worthwhile(problem, least)

    def point(aim: float, on: int) -> Point:
        bits = least if aim >= largest else refined(problem, aim, most)
        return Point(bits, max(math.sqrt(problem.error(bits)), TINY), measure(bits, on))

    aim = _neighborhood(lambda aim: point(aim, first_count(count)), bound, largest)
    points: list[Point] = []
    while len(points) < MOST_POINTS:
        found = point(aim, count)
        if any(found.bits == one.bits for one in points):
            break
        points.append(found)
        below = [one for one in points if one.guarded <= bound]
        if below and _settled(problem, points, bound, least):
            break
        aim = _following(points, bound)
    below = [one for one in points if one.guarded <= bound]
    if not below:
        raise _unreachable(problem, points, bound)
    best = min(below, key=lambda one: problem.nbytes(one.bits))
    return [best, *(one for one in points if one is not best)]


def _neighborhood(point: Callable[[float], Point], bound: float, largest: float) -> float:
    """Return a predicted error from which the measured one is not far from the bound, by a few rough points."""
    aim = min(bound, largest)
    points: list[Point] = []
    for _ in range(MOST_FIRST):
        found = point(aim)
        if any(found.bits == one.bits for one in points):
            break
        points.append(found)
        aim = _following(points, bound)
        if 1 / NEAR < found.median / bound < NEAR:
            break
    return aim


def _settled(problem: Problem, points: Sequence[Point], bound: float, least: Bits) -> bool:
    """Whether another point could save next to nothing."""
    best = min((one for one in points if one.guarded <= bound), key=lambda one: problem.nbytes(one.bits))
    size = problem.nbytes(best.bits)
    above = [problem.nbytes(one.bits) for one in points if problem.nbytes(one.bits) < size]
    return best.bits == least or best.guarded >= CLOSE * bound or (bool(above) and size <= (1 + SLACK) * max(above))


def first_count(count: int) -> int:
    """Return how many of the observations kept back suffice to find the neighborhood."""
    return max(count // 3, min(FEWEST_FIRST, count))


def tightest(problem: Problem) -> Bits:
    """Return the assignment of the least error among the smallest ones."""
    return finest(problem, problem.nbytes(smallest(problem)))


def worthwhile(problem: Problem, least: Bits) -> int:
    """Return the bytes above which a pack is hardly smaller than the float policy; `least` is of `tightest`."""
    most = problem.nbytes({name: options[-1].bits for name, options in problem.options.items()})
    start = problem.nbytes(least)
    return start + int(WORTH * (most - start))


def refined(problem: Problem, predicted: float, most: int) -> Bits:
    """Return the assignment of the least error among those that are as small as the smallest one of a predicted error.

    Where that takes more than `most` bytes, it is the one of so many.
    """
    return finest(problem, min(problem.nbytes(cheapest(problem, predicted**2)), most))


def _following(points: list[Point], bound: float) -> float:
    """Return the predicted error of the next point."""
    below = max((one for one in points if one.guarded <= bound), key=lambda one: one.predicted, default=None)
    above = min((one for one in points if one.guarded > bound), key=lambda one: one.predicted, default=None)
    if below is None or above is None or below.predicted >= above.predicted:
        nearest = below if above is None or (below is not None and below.predicted >= above.predicted) else above
        assert nearest is not None
        return _step(nearest.predicted, bound, nearest.guarded)
    low, high = math.log(below.predicted), math.log(above.predicted)
    rise = math.log(above.guarded) - math.log(below.guarded)
    part = (math.log(AIM * bound) - math.log(below.guarded)) / rise
    return math.exp(low + min(max(part, 0.1), 0.9) * (high - low))


def _step(predicted: float, bound: float, found: float) -> float:
    """Return the predicted error that would meet the bound if errors were in proportion."""
    factor = AIM * bound / found if found > 0 else WIDEST_STEP
    return predicted * min(max(factor, 1 / WIDEST_STEP), WIDEST_STEP)


def _unreachable(problem: Problem, points: list[Point], bound: float) -> InputError:
    best = min(points, key=lambda one: one.guarded)
    most = problem.nbytes({name: options[-1].bits for name, options in problem.options.items()})
    held = problem.nbytes(best.bits)
    return InputError(
        f"no pack was found whose median error is safely below {bound:.3g}: the best of {len(points)} tried has "
        f"{best.median:.3g} (of {len(best.deviations)} observations) at {held / 1e6:.2f} MB held, and the float policy "
        f"holds {most / 1e6:.2f} MB: give `max_error={best.guarded * 1.05:.2g}` or more, or more observations"
    )
