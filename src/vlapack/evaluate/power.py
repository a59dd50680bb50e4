"""How many episodes it takes to see a drop, before they are played."""

from __future__ import annotations

import math
from statistics import NormalDist

from vlapack.errors import InputError

POWER = 0.8
ALPHA = 0.05

DROPS = (0.02, 0.05, 0.10)
"""What a summary tells the number of episodes for."""


def episodes_needed(drop: float, discordance: float, *, power: float = POWER, alpha: float = ALPHA) -> int:
    """Return how many pairs McNemar's test needs to call a drop of this size significant.

    Only episodes on which the two policies disagree count, so the number grows with how often they do. A noise floor
    tells that before the first pair is played. Where there is no drop, about as many pairs exclude one of this size, by
    the 95 % interval of the difference, equally often.

    Args:
        drop: the baseline's success rate minus the policy's, in 0…1.
        discordance: the fraction of episodes that only one of the two solves; at least `drop`.
        power: how probable it is that a true drop of this size is found.
        alpha: two-sided level of the test.

    Raises:
        InputError: the drop is not above 0, or the policies disagree too seldom for it.

    Source: R. J. Connor, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987). The exact test needs a few percent more.
    """
    if not 0 < drop <= discordance <= 1:
        raise InputError(
            f"`drop={drop}` with `discordance={discordance}`: a drop is above 0, and at least as many episodes end "
            "differently"
        )
    threshold, reach = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    root = threshold * math.sqrt(discordance) + reach * math.sqrt(discordance - drop * drop)
    return math.ceil((root / drop) ** 2)
