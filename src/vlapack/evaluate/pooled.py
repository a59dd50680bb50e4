"""The difference between two policies, pooled over tasks that did not all get the same number of episodes.

Where every task has the same pairs, this is the plain difference. It matters where they do not: if simulator errors or
an unfinished run took the easy task's episodes from one policy only, its plain rate falls and the policy is no worse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from vlapack.evaluate.statistics import Z95


@dataclass(frozen=True)
class Counts:
    """Episodes of one task: how many each policy finished, and how many of those succeeded."""

    successes: int
    episodes: int
    baseline_successes: int
    baseline_episodes: int


def pooled_difference(tasks: Iterable[Counts], z: float = Z95) -> tuple[float, float, float] | None:
    """Return the Mantel-Haenszel difference of the success rates, policy minus baseline, and its interval.

    Pairs are not used, so the interval is wider than that of a paired difference.

    Args:
        tasks: one table per task; those which only one of the two has played say nothing and are left out.
        z: normal quantile of the wanted confidence.

    Returns:
        The difference, its lower and its upper bound, as fractions; None: no task was played by both.

    Source: N. Mantel, W. Haenszel, JNCI 22 (1959) for the weights; T. Sato, "On the variance estimator for the
    Mantel-Haenszel risk difference", Biometrics 45 (1989) for the variance, which holds for few large tasks and for
    many small ones.
    """
    weights = difference = p = q = 0.0
    for task in tasks:
        n1, n0 = task.episodes, task.baseline_episodes
        if not n1 or not n0:
            continue
        x, y, n = task.successes, task.baseline_successes, n1 + n0
        weights += n1 * n0 / n
        difference += (x * n0 - y * n1) / n
        p += (n1 * n1 * y - n0 * n0 * x + n1 * n0 * (n0 - n1) / 2) / (n * n)
        q += (x * (n0 - y) + y * (n1 - x)) / (2 * n)
    if not weights:
        return None
    difference /= weights
    half = z * math.sqrt(max(0.0, difference * p + q)) / weights
    return difference, max(-1.0, difference - half), min(1.0, difference + half)
