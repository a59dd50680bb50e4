"""What trying a remedy came to, and which of them is worth its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from vlapack.recipe.recipe import Recipe

HELPED = 0.85
"""What calibrating on the data must leave of an observation's error, in the median, for calibration to be to blame,"""
CHANCE = 0.05
"""and how likely that may be by chance (Wilcoxon's signed ranks)."""


@dataclass(frozen=True)
class Tried:
    """A remedy, and what it does.

    Attributes:
        kind: a word for programs.
        name: what is done, in a few words.
        recipe: of the pack that has it.
        recalibrates: whether that pack is to be calibrated on the data, and not on what calibrated this one.
        median: error of a chunk.
        p95: its 95 % point.
        guarded: what is compared with the target (`tune.search.guarded`).
        held: bytes that a running policy holds.
        helps: whether the error is below the target.
        deviations: of the chunks, one for each observation.
    """

    kind: str
    name: str
    recipe: Recipe
    recalibrates: bool
    median: float
    p95: float
    guarded: float
    held: int
    helps: bool
    deviations: np.ndarray = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without the recipe."""
        return {
            "kind": self.kind,
            "name": self.name,
            "median": self.median,
            "p95": self.p95,
            "guarded": self.guarded,
            "held_bytes": self.held,
            "recalibrates": self.recalibrates,
            "helps": self.helps,
        }


def clearly_better(before: np.ndarray, after: np.ndarray, *, expected: bool = False) -> bool:
    """Whether deviations [N] of the same observations fell by so much, and so often, that it is no chance.

    Where it is `expected`, since most of the data shows what calibration never saw, a lower median suffices.
    """
    if expected:
        return bool(np.median(after) <= HELPED * np.median(before))
    alive = before > 0
    if not alive.any() or np.median(after[alive] / before[alive]) > HELPED:
        return False
    return bool(wilcoxon(before, after, alternative="greater").pvalue < CHANCE)


def cheapest(tried: Sequence[Tried]) -> Tried | None:
    """Return the remedy of the fewest bytes among those that help; of equally cheap ones the least error."""
    return min((one for one in tried if one.helps), key=lambda one: (one.held, one.guarded), default=None)
