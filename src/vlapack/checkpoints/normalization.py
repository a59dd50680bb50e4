"""Statistics of states and actions, and openpi's formulas that they go into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from vlapack.checkpoints.normstats import EPSILON, KEYS, REMEDY, check_pair, read_tables, vector
from vlapack.checkpoints.policy_config import NormalizationKind, PolicyConfig
from vlapack.documents import read_json
from vlapack.errors import InputError

NEEDED: Mapping[NormalizationKind, tuple[str, str]] = {"mean_std": ("mean", "std"), "quantile": ("q01", "q99")}
"""The two statistics that each kind of normalization reads."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Per-dimension statistics of one key, float64 [D] each; what a file does not hold is None."""

    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    q01: np.ndarray | None = None
    q99: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Normalization:
    """openpi's Normalize and Unnormalize for the keys `state` and `actions`.

    Attributes:
        kind: which two statistics are read.
        stats: by key; those of other keys are kept, and nothing reads them.
        source: the file that messages name.
    """

    kind: NormalizationKind
    stats: Mapping[str, Statistics]
    source: str = "norm_stats"

    def __post_init__(self) -> None:
        """Refuse statistics that lack what `kind` needs, or that no formula can use."""
        needed = NEEDED[self.kind]
        for key in KEYS:
            place = f"{self.source}: {key}"
            if key not in self.stats:
                raise InputError(f"{self.source}: no entry {key!r}; found {sorted(self.stats)}: {REMEDY}")
            for name in needed:
                if (values := getattr(self.stats[key], name)) is None:
                    raise InputError(f"{place} has no {name!r}, which {self.kind} normalization needs: {REMEDY}")
                vector(values, f"{place}: {name}")
            # LeRobot's own epsilons, carried over, leave a width or deviation of zero just below zero here; what counts
            # is that the divisor stays positive.
            check_pair(*self._pair(key), needed, place, slack=EPSILON)

    def require_dimensions(self, config: PolicyConfig) -> None:
        """Refuse statistics of another robot: shorter than its state or actions, or longer than the network's.

        In between, the dimensions beyond the robot's are padding, as in openpi: tables of 32 for a state of 8.

        Raises:
            InputError: it names the key, its length and both bounds.
        """
        robot, widest = config.features, config.architecture.action_dim
        for key, dims in (("state", robot.state), ("actions", len(robot.actions))):
            if not dims <= (found := len(self._pair(key)[0])) <= max(dims, widest):
                names = " and ".join(NEEDED[self.kind])
                raise InputError(
                    f"{self.source}: {key}: {names} have {found} numbers; layout {config.layout} has {dims} dimensions "
                    f"and the network {widest}, so it takes {dims} to {widest}: are they another robot's? "
                    "Give this one's as `norm_stats`"
                )

    def _pair(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        first, second = (getattr(self.stats[key], name) for name in NEEDED[self.kind])
        return first, second

    def normalize(self, key: str, x: np.ndarray) -> np.ndarray:
        """Scale x [..., D]: z-scores, or [q01, q99] to [-1, 1]. Statistics longer than D are cut to D."""
        first, second = (values[: x.shape[-1]] for values in self._pair(key))
        if len(first) < x.shape[-1]:
            raise InputError(f"norm_stats: {key} has {len(first)} dimensions, the data {x.shape[-1]}")
        if self.kind == "mean_std":
            return np.asarray((x - first) / (second + EPSILON))
        return np.asarray((x - first) / (second - first + EPSILON) * 2.0 - 1.0)

    def unnormalize(self, key: str, x: np.ndarray) -> np.ndarray:
        """Undo `normalize` on x [..., D]; dimensions beyond the statistics are padding.

        openpi multiplies padding by 1 + 1e-6 under mean_std and leaves it alone under quantile; so do we.
        """
        first, second = self._pair(key)
        dim = len(first)
        if dim > x.shape[-1]:
            raise InputError(f"norm_stats: {key} has {dim} dimensions, the data only {x.shape[-1]}")
        if self.kind == "mean_std":
            padding = (0, x.shape[-1] - dim)
            return np.asarray(x * (np.pad(second, padding, constant_values=1.0) + EPSILON) + np.pad(first, padding))
        scaled = (x[..., :dim] + 1.0) / 2.0 * (second - first + EPSILON) + first
        return np.concatenate([scaled, x[..., dim:]], axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """openpi's norm_stats.json document."""
        return {
            "norm_stats": {
                key: {f.name: getattr(s, f.name).tolist() for f in fields(s) if getattr(s, f.name) is not None}
                for key, s in self.stats.items()
            }
        }

    @classmethod
    def from_dict(
        cls, document: Mapping[str, Any], kind: NormalizationKind, source: str = "norm_stats"
    ) -> Normalization:
        """Read openpi's norm_stats.json document; statistics of other keys are kept.

        Raises:
            InputError: a field that means nothing here, or statistics that no formula can use.
        """
        tables = read_tables(document, NEEDED[kind], source)
        return cls(kind, {key: Statistics(**table) for key, table in tables.items()}, source)

    @classmethod
    def load(cls, path: Path, kind: NormalizationKind) -> Normalization:
        """Read a norm_stats.json file; errors as in `from_dict`, and name the file."""
        return cls.from_dict(read_json(path), kind, str(path))
