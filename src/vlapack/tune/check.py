"""Does a recipe that was measured on one policy hold for the next one?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlapack.errors import InputError

TOLERANCE = 1.5
"""By how much the median error may exceed what was measured when the recipe was found: medians of some 24 observations,
whose deviations spread twofold, differ by a third by chance alone."""
CHECKED = 24
"""Observations that are looked at, at most,"""
FEWEST_CHECKED = 8
"""and at least."""


@dataclass(frozen=True)
class Verdict:
    """Whether a recipe still holds, and by which figures."""

    holds: bool
    median: float
    """Of the new pack's chunks, as `vlapack compare` prints it."""
    p95: float
    frames: int
    limit: float
    """What the median may be."""
    then_median: float
    then_p95: float

    @classmethod
    def on(cls, note: Mapping[str, Any], found: Mapping[str, Any]) -> Verdict:
        """Judge.

        Args:
            note: what the tuning left in the recipe (`recipe.read_tuned`).
            found: what comparing the new pack with its parent gave (`differences.action_differences`).

        Raises:
            InputError: the note does not say what was measured.
        """
        try:
            median, p95 = float(note["median"]), float(note["p95"])
            target = note["target"]
            promised = float(target["value"]) if target["kind"] == "error" else 0.0
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the recipe's note of its tuning lacks median, p95 or target ({error!r}); tune again"
            ) from error
        limit = max(promised, TOLERANCE * median)
        now = found["deviation"]
        return cls(now["p50"] <= limit, now["p50"], now["p95"], found["frames"], limit, median, p95)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "holds": self.holds,
            "median": self.median,
            "p95": self.p95,
            "frames": self.frames,
            "limit": self.limit,
            "then": {"median": self.then_median, "p95": self.then_p95},
        }

    def __str__(self) -> str:
        """Say it in one sentence."""
        figures = (
            f"the median error is {self.median:.2%} (95 % point {self.p95:.2%}) on {self.frames} observations; it was "
            f"{self.then_median:.2%} ({self.then_p95:.2%}) when the recipe was tuned, and up to {self.limit:.2%} is "
            "taken for the same"
        )
        return f"the recipe holds: {figures}" if self.holds else f"measure again: {figures}"
