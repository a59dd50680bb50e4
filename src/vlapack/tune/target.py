"""What a tuning is to reach, and which observations serve what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlapack.console import size
from vlapack.errors import InputError

KEPT_BACK = 4
"""Of few observations, every fourth is kept back."""
FEWEST_OBSERVATIONS = 4
FEWEST_FOR_ERROR = 16
"""Kept back at least where an error is promised."""
HALVED = 32
"""From so many observations on, half of them is kept back."""
SENSED = 8
"""Observations that sensitivities are measured on: each takes a way back through the network."""


@dataclass(frozen=True)
class Target:
    """A budget of bytes, or a bound on the error.

    Attributes:
        kind: `held`: bytes that a running policy holds; `file`: bytes of the pack's file; `error`: the median
            deviation of a chunk, for the fewest bytes held.
        value: bytes, or the error (0.01 for 1 %).
    """

    kind: Literal["held", "file", "error"]
    value: float

    @property
    def measure(self) -> Literal["file", "held"]:
        """Whose bytes count."""
        return "file" if self.kind == "file" else "held"

    def __str__(self) -> str:
        """Say it in a few words."""
        if self.kind == "error":
            return f"median error below {100 * self.value:.3g} %"
        return f"{self.kind} {size(int(self.value))}"


@dataclass(frozen=True)
class Parts:
    """Numbers of the observations that are calibrated on, kept back for comparing, and measured on.

    The first ones of those kept back are spread over all of them.
    """

    calibrating: list[int]
    kept: list[int]
    sensed: list[int]


def parted(count: int, target: Target) -> Parts:
    """Divide so many observations.

    Raises:
        InputError: too few.
    """
    promised = target.kind == "error"
    fewest = FEWEST_FOR_ERROR + FEWEST_OBSERVATIONS if promised else FEWEST_OBSERVATIONS
    if count < fewest:
        what = f"{FEWEST_FOR_ERROR} are kept back to measure the error" if promised else "one is kept back to compare"
        raise InputError(f"{count} observations are too few to tune on: give {fewest} or more, of which {what}")
    back = count // 2 if count >= HALVED else FEWEST_FOR_ERROR if promised else count // KEPT_BACK
    kept = [number for number in range(count) if (number + 1) * back // count > number * back // count]
    calibrating = [number for number in range(count) if number not in kept]
    kept = [number for start in range(3) for number in kept[start::3]]
    sensed = [calibrating[place * len(calibrating) // SENSED] for place in range(min(SENSED, len(calibrating)))]
    if len(calibrating) <= SENSED:
        sensed = calibrating
    return Parts(calibrating, kept, sensed)
