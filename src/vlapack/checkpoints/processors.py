"""LeRobot's processors: the two JSON files, and their states, that stand around a policy in its folder.

What they say about normalization is read, never inferred: π0.5 comes with quantiles from openpi and with mean and
standard deviation in some of LeRobot's folders. Steps that we lack are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlapack.checkpoints.base import Normalization, NormalizationKind, Statistics, read_json
from vlapack.checkpoints.normstats import EPSILON, check_pair, vector
from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.errors import InputError

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"

STATE, ACTION = "observation.state", "action"
NORMALIZER, UNNORMALIZER, RELATIVE = "normalizer_processor", "unnormalizer_processor", "relative_actions_processor"
KNOWN = {
    "rename_observations_processor",
    "to_batch_processor",
    "pi0_new_line_processor",
    "pi05_prepare_state_tokenizer_processor_step",
    "tokenizer_processor",
    "device_processor",
    "absolute_actions_processor",
    NORMALIZER,
    UNNORMALIZER,
    RELATIVE,
}

# Modes that map a range to [-1, 1]; the others are MEAN_STD and IDENTITY.
RANGES = {"QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"), "MIN_MAX": ("min", "max")}
MODE_OF: Mapping[NormalizationKind, str] = {"quantile": "QUANTILES", "mean_std": "MEAN_STD"}

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Scaling:
    """How one key is normalized: the mode, its statistics by name as `source` holds them, and what a divisor gains."""

    key: str
    mode: str
    stats: Mapping[str, Any]
    epsilon: float
    source: str

    def get(self, name: str) -> Array:
        if name not in self.stats:
            raise InputError(f"{self.key}: mode {self.mode} needs {name!r}; the statistics are {sorted(self.stats)}")
        return vector(self.stats[name], f"{self.source}: {self.key}.{name}")

    def _pair(self, *names: str) -> tuple[Array, Array]:
        first, second = (self.get(name) for name in names)
        check_pair(first, second, (names[0], names[1]), f"{self.source}: {self.key}")
        return first, second

    def range(self) -> tuple[Array, Array]:
        """Return what maps to -1, and the width that maps to 2."""
        low, high = self._pair(*RANGES[self.mode])
        width = high - low
        return low, np.where(width == 0, self.epsilon, width)

    def center_and_scale(self, dims: int) -> tuple[Array, Array]:
        """Return c and s of the normalized (x - c) / s."""
        if self.mode == "IDENTITY" or not self.stats:
            return np.zeros(dims), np.ones(dims)
        if self.mode == "MEAN_STD":
            mean, std = self._pair("mean", "std")
            return mean, std + self.epsilon
        low, width = self.range()
        return low + width / 2, width / 2


class Processors:
    """The processors of one folder.

    Args:
        folder: holds both JSON files.

    Raises:
        InputError: one is missing or broken, has a step that we lack, or its state is missing.
    """

    def __init__(self, folder: Path) -> None:
        """Read the steps of both."""
        self._folder = folder
        self._steps = {
            step["registry_name"]: step for file in (PREPROCESSOR, POSTPROCESSOR) for step in self._read(file)
        }

    @staticmethod
    def there(folder: Path) -> bool:
        """Whether a folder has processors: one that was only pre-trained has none."""
        return (folder / PREPROCESSOR).is_file() or (folder / POSTPROCESSOR).is_file()

    def _read(self, file: str) -> Sequence[dict[str, Any]]:
        path = self._folder / file
        steps = read_json(path).get("steps")
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise InputError(f"{path}: no list of steps; LeRobot writes one: copy the file again")
        for step in steps:
            if (name := step.get("registry_name")) not in KNOWN:
                raise InputError(
                    f"{path}: the step {name or step.get('class')!r} is none that vlapack has "
                    f"({', '.join(sorted(KNOWN))}); the policy would see other inputs than in LeRobot"
                )
        return steps

    @property
    def relative_actions(self) -> dict[str, Any] | None:
        """The configuration of the step that makes actions relative; None where there is none."""
        step = self._steps.get(RELATIVE)
        return None if step is None else dict(step.get("config") or {})

    def normalization(self, kind: NormalizationKind | None, *, state: int, actions: int) -> Normalization | None:
        """Return the statistics in openpi's form, so that its formulas give LeRobot's numbers.

        The two differ in what they add to divisors, 1e-6 or 1e-8 or nothing: the statistics make up for it. Any other
        mode than openpi's two is some (x - c) / s, and so a mean and a standard deviation.

        Args:
            kind: read these statistics, whatever the processors use; None: what they use.
            state: dimensions of the state.
            actions: dimensions of the actions.

        Returns:
            None where the processors hold no statistics at all.
        """
        keys = {"state": (NORMALIZER, STATE, "STATE", state), "actions": (UNNORMALIZER, ACTION, "ACTION", actions)}
        scalings = {key: self._scaling(*place[:3], kind) for key, place in keys.items()}
        if not any(scaling.stats for scaling in scalings.values()):
            return None
        if all(scaling.mode in RANGES and scaling.stats for scaling in scalings.values()):
            stats = {key: _as_range(scaling) for key, scaling in scalings.items()}
            return Normalization("quantile", stats, str(self._folder))
        stats = {key: _as_mean(scaling, keys[key][3]) for key, scaling in scalings.items()}
        return Normalization("mean_std", stats, str(self._folder))

    def _scaling(self, registry_name: str, key: str, feature: str, kind: NormalizationKind | None) -> _Scaling:
        if registry_name not in self._steps:
            raise InputError(f"{self._folder}: its processors have no {registry_name}, which says how {key} is scaled")
        step = self._steps[registry_name]
        config = step.get("config") or {}
        mode = str(config.get("norm_map", {}).get(feature, "IDENTITY")) if kind is None else MODE_OF[kind]
        if mode not in {*RANGES, "MEAN_STD", "IDENTITY"}:
            raise InputError(f"{self._folder}: {registry_name} scales {key} by {mode!r}, which is no mode of LeRobot's")
        source = registry_name if config.get("stats") else str(step.get("state_file"))
        return _Scaling(key, mode, self._statistics(step, config, key), float(config.get("eps", 1e-8)), source)

    def _statistics(self, step: Mapping[str, Any], config: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Statistics stand in the step's state file, or in its configuration where they were given to it."""
        if inline := config.get("stats"):
            return dict(inline.get(key, {}))
        if (state_file := step.get("state_file")) is None:
            return {}
        state = TensorFile(self._folder / state_file)
        named = {name.rpartition(".")[2]: name for name in state.names() if name.rpartition(".")[0] == key}
        return {short: state.read(name).double().numpy() for short, name in named.items()}


def _as_range(scaling: _Scaling) -> Statistics:
    low, width = scaling.range()
    return Statistics(q01=low, q99=low + width - EPSILON)


def _as_mean(scaling: _Scaling, dims: int) -> Statistics:
    center, scale = scaling.center_and_scale(dims)
    return Statistics(mean=center, std=scale - EPSILON)
