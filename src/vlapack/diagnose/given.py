"""What a diagnosis is given: the pack's own recipe, the target, and observations by what they serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.errors import InputError
from vlapack.fingerprint import UNUSED, WEIGHTS_ONLY, digest_observations
from vlapack.recipe.recipe import Recipe

DEFAULT_TARGET = 0.05
"""For the median error of a chunk, where neither the user nor a tuning names one."""
FEWEST, FEWEST_UNKNOWN = 8, 16
"""Observations that calibrated nothing; the larger number where the pack's calibration set is not known."""
MOST_KEPT = 32

Observations = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Target:
    """What the median error of a chunk is to stay below, and who says so."""

    value: float
    source: str


@dataclass(frozen=True)
class Parts:
    """Observations by what they serve.

    Attributes:
        calibrating: those that calibrated the pack; empty where they are not known.
        kept: errors are measured on them. They calibrate nothing.
        given: for calibrating again.
    """

    calibrating: Observations
    kept: Observations
    given: Observations

    @classmethod
    def of(cls, data: Observations, calibrating: Observations) -> Parts:
        """Divide the data: what calibrated the pack is left out, and of the rest every second is kept.

        Raises:
            InputError: too little is left.
        """
        seen = {digest_observations([one]) for one in calibrating}
        fresh = [one for one in data if digest_observations([one]) not in seen]
        fewest = FEWEST if calibrating else FEWEST_UNKNOWN
        if len(fresh) < fewest:
            raise InputError(
                f"{len(fresh)} of {len(data)} observations did not calibrate the pack, and {fewest} are needed to "
                "measure on: give `data=DIR` with more, or more `frames`"
            )
        if len(fresh) < FEWEST_UNKNOWN:
            return cls(calibrating, fresh, ())
        return cls(calibrating, fresh[1::2][:MOST_KEPT], fresh[::2])


def recipe_of(pack: PackedCheckpoint) -> Recipe:
    """Return a pack's recipe; the first packs knew no folding."""
    return Recipe.from_dict({"fold": False, **pack.document["recipe"]})


def is_calibrated(pack: PackedCheckpoint) -> bool:
    """Whether observations decided anything in a pack."""
    return pack.document["fingerprint"]["calibration"] not in (UNUSED, WEIGHTS_ONLY)


def calibrated_on(pack: PackedCheckpoint, observations: Observations) -> bool:
    """Whether the pack was calibrated on these very observations, in this order."""
    return bool(pack.document["fingerprint"]["calibration"] == digest_observations(observations))


def target_of(pack: PackedCheckpoint, wanted: float | None) -> Target:
    """Return the target: what is wanted, else what the pack was tuned for, else `DEFAULT_TARGET`."""
    if wanted is not None:
        return Target(wanted, "as given")
    aim = (pack.document["measured"].get("tuned") or {}).get("target") or {}
    if aim.get("kind") == "error":
        return Target(float(aim["value"]), "what the pack was tuned for")
    return Target(DEFAULT_TARGET, "the default")
