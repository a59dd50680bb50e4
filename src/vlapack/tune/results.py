"""What comes out of a tuning: points, each one assignment with its bytes, errors and time, and the recipe of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vlapack.policy.differences import quantiles
from vlapack.recipe.recipe import Recipe
from vlapack.tune.allocate import Bits, Chosen, fineness, label
from vlapack.tune.target import Target

Kind = Literal["allocation", "uniform", "preset"]


@dataclass(frozen=True)
class Measured:
    """What `vlapack compare` would print, over the observations that were kept back."""

    median: float
    """Of the chunks' deviations from the float ones, in standard deviations of the float policy's actions."""
    p95: float
    frames: int

    @classmethod
    def of(cls, deviations: np.ndarray) -> Measured:
        """Summarize deviations [N]."""
        found = quantiles(deviations)
        return cls(found["p50"], found["p95"], len(deviations))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"median": self.median, "p95": self.p95, "frames": self.frames}


@dataclass(frozen=True)
class Candidate:
    """One assignment of bits, and how well it does."""

    name: str
    kind: Kind
    bits: Bits
    nbytes: int
    """Of the pack's file."""
    held: int
    """In the memory of a policy that runs on the CPU."""
    predicted: float
    """√(Σ ‖Δ‖² / Σ ‖a‖²) of the chunk, to first order, on the observations that were measured on."""
    measured: Measured | None = None
    """None: not tried."""
    ms: float | None = None
    """Predicted time of a chunk on this machine; None: no chunk was timed."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without the single layers."""
        counts = Counter(map(label, sorted(self.bits.values(), key=fineness)))
        return {
            "name": self.name,
            "kind": self.kind,
            "file_bytes": self.nbytes,
            "held_bytes": self.held,
            "predicted": self.predicted,
            "measured": None if self.measured is None else self.measured.to_dict(),
            "ms": self.ms,
            "layers": dict(counts),
        }


@dataclass(frozen=True)
class Tuned:
    """What came out."""

    recipe: Recipe
    target: Target
    chosen: Candidate
    points: Sequence[Candidate]
    """Allocations along the frontier, the smallest first, then presets and uniform recipes; `chosen` is one of them."""
    sensitivity: Mapping[str, Mapping[Chosen, float]]
    """Layer → choice → the chunk's predicted relative error if this layer alone is packed so."""
    observations: Mapping[str, int]
    """How many were calibrated on, measured on, and kept back."""
    chunks: Mapping[str, int]
    """How many chunks the comparison took: `float` (the first eight from eight noises) and `packed`."""

    @property
    def tried(self) -> list[Candidate]:
        """The points that were measured."""
        return [point for point in self.points if point.measured is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document of the frontier."""
        return {
            "type": "vlapack.frontier",
            "version": 1,
            "target": {"kind": self.target.kind, "value": self.target.value},
            "chosen": self.chosen.name,
            "points": [point.to_dict() for point in self.points],
            "observations": dict(self.observations),
            "chunks": dict(self.chunks),
            "sensitivity": {
                name: {label(choice): error for choice, error in of.items()} for name, of in self.sensitivity.items()
            },
        }
