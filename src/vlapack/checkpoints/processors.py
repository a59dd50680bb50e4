"""LeRobot's processors: the two JSON files, and their states, that stand around a policy in its folder.

What they say about normalization is read, never inferred: π0.5 comes with quantiles from openpi and with mean and
standard deviation in some of LeRobot's folders. Which steps and fields are read is listed in processor_steps.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.normstats import EPSILON, check_pair, vector
from vlapack.checkpoints.policy_config import NormalizationKind
from vlapack.checkpoints.processor_steps import (
    ABSOLUTE,
    AFTER,
    BEFORE,
    FOREIGN,
    NEEDED,
    NORMALIZER,
    RELATIVE,
    RENAME,
    TOKENIZER,
    UNNORMALIZER,
    require_steps,
)
from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.documents import read_json
from vlapack.errors import InputError

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"

STATE, ACTION = "observation.state", "action"

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
    dims: int

    def get(self, name: str) -> Array:
        if name not in self.stats:
            raise InputError(f"{self.key}: mode {self.mode} needs {name!r}; the statistics are {sorted(self.stats)}")
        values = vector(self.stats[name], f"{self.source}: {self.key}.{name}")
        if values.shape != (self.dims,):
            raise InputError(
                f"{self.source}: {self.key}: {name!r} of its statistics has shape "
                f"{list(values.shape)}; the policy's features say [{self.dims}]"
            )
        return values

    def _pair(self, *names: str) -> tuple[Array, Array]:
        first, second = (self.get(name) for name in names)
        check_pair(first, second, (names[0], names[1]), f"{self.source}: {self.key}")
        return first, second

    def range(self) -> tuple[Array, Array]:
        """Return what maps to -1, and the width that maps to 2."""
        low, high = self._pair(*RANGES[self.mode])
        width = high - low
        return low, np.where(width == 0, self.epsilon, width)

    def center_and_scale(self) -> tuple[Array, Array]:
        """Return c and s of the normalized (x - c) / s."""
        if self.mode == "IDENTITY" or not self.stats:
            return np.zeros(self.dims), np.ones(self.dims)
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
        InputError: one is missing or broken, or has a step or field that vlapack lacks.
    """

    def __init__(self, folder: Path) -> None:
        """Read the steps of both."""
        self._folder = folder
        self._steps: dict[str, dict[str, Any]] = {}
        for file, allowed in ((PREPROCESSOR, BEFORE), (POSTPROCESSOR, AFTER)):
            steps = require_steps(folder / file, read_json(folder / file), allowed)
            self._steps |= {step["registry_name"]: step for step in steps}

    def require_prompt_of(self, variant: str) -> None:
        """Refuse processors that do not prepare the prompt of π0 (`pi0`) or π0.5 (`pi05`) as LeRobot does."""
        if missing := [name for name in NEEDED[variant] if name not in self._steps]:
            raise InputError(
                f"{self._folder}: its processors have no {' and no '.join(missing)}, and LeRobot's {variant} acts with "
                "it; save the policy and its processors again"
            )
        if FOREIGN[variant] in self._steps:
            raise InputError(f"{self._folder / PREPROCESSOR}: {FOREIGN[variant]} is not a step of LeRobot's {variant}")

    @staticmethod
    def there(folder: Path) -> bool:
        """Whether a folder has processors: one that was only pre-trained has none."""
        return (folder / PREPROCESSOR).is_file() or (folder / POSTPROCESSOR).is_file()

    def _config(self, name: str) -> dict[str, Any]:
        return dict(self._steps.get(name, {}).get("config") or {})

    def _scaling_config(self, name: str) -> dict[str, Any]:
        """The configuration of a step that scales, its objects checked to be objects."""
        config = self._config(name)
        for field in ("norm_map", "features", "stats"):
            value = {} if config.get(field) is None else config[field]
            nested = field != "norm_map"
            if not isinstance(value, dict) or (nested and not all(isinstance(entry, dict) for entry in value.values())):
                raise InputError(
                    f"{self._folder}: {name} has {field} {value!r:.200}; it must be an object"
                    f"{' of objects' if nested else ''}"
                )
            config[field] = value
        keys = config.get("normalize_observation_keys")
        if not (keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys))):
            raise InputError(
                f"{self._folder}: {name} has normalize_observation_keys {keys!r:.200}; it must be a list of names"
            )
        return config

    @property
    def rename_map(self) -> dict[str, str]:
        """Keys of observations → the names that the policy knows them by."""
        found = self._config(RENAME).get("rename_map") or {}
        if not (isinstance(found, dict) and all(isinstance(name, str) for name in found.values())):
            raise InputError(f"{self._folder / PREPROCESSOR}: rename_map is {found!r}; it must map names to names")
        return dict(found)

    @property
    def max_length(self) -> int:
        """How many tokens of a prompt the network reads; without a word, LeRobot's step takes 512."""
        found = self._config(TOKENIZER).get("max_length", 512)
        if type(found) is not int or found < 1:
            raise InputError(f"{self._folder / PREPROCESSOR}: max_length is {found!r}; it must be a number of tokens")
        return found

    @property
    def tokenizer_name(self) -> str | None:
        """Whose tokenizer the prompts are for; None where it was saved into the folder, or goes without a name."""
        artifacts = self._steps[TOKENIZER].get("artifacts") or {}
        if not isinstance(artifacts, dict):
            raise InputError(f"{self._folder}: {TOKENIZER} has artifacts {artifacts!r:.200}; it must be an object")
        if "tokenizer_name" in artifacts:
            return None
        name = self._config(TOKENIZER).get("tokenizer_name")
        return None if name is None else str(name)

    @property
    def relative_actions(self) -> dict[str, Any] | None:
        """The configuration of the step that makes actions relative in training; None where there is none."""
        return self._config(RELATIVE) if RELATIVE in self._steps else None

    @property
    def makes_absolute(self) -> bool:
        """Whether the state is added to the policy's actions."""
        return bool(self._config(ABSOLUTE).get("enabled", False))

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
        scalings = {
            "state": self._state_scaling(kind, state),
            "actions": self._scaling(UNNORMALIZER, ACTION, "ACTION", kind, actions),
        }
        if not any(scaling.stats for scaling in scalings.values()):
            return None
        if all(scaling.mode in RANGES and scaling.stats for scaling in scalings.values()):
            ranges = {key: _as_range(scaling) for key, scaling in scalings.items()}
            return Normalization("quantile", ranges, str(self._folder))
        means = {key: _as_mean(scaling) for key, scaling in scalings.items()}
        return Normalization("mean_std", means, str(self._folder))

    def _state_scaling(self, kind: NormalizationKind | None, dims: int) -> _Scaling:
        """How the state is scaled; LeRobot leaves observations alone that the step does not list."""
        config = self._scaling_config(NORMALIZER)
        self._require_plain_pictures(config)
        listed, keys = config["features"], config.get("normalize_observation_keys")
        scaling = self._scaling(NORMALIZER, STATE, str(listed.get(STATE, {}).get("type", "STATE")), kind, dims)
        if kind is None and (STATE not in listed or (keys is not None and STATE not in keys)):
            return replace(scaling, mode="IDENTITY")
        return scaling

    def _require_plain_pictures(self, config: Mapping[str, Any]) -> None:
        """Refuse statistics that would change pictures: the network takes them as they are."""
        mode = config["norm_map"].get("VISUAL", "IDENTITY")
        keys = config.get("normalize_observation_keys")
        for key, feature in config["features"].items():
            scaled = mode != "IDENTITY" and feature.get("type") == "VISUAL" and (keys is None or key in keys)
            if scaled and self._statistics(self._steps[NORMALIZER], config, key):
                raise InputError(
                    f"{self._folder / PREPROCESSOR}: {NORMALIZER} scales {key} by {mode!r}, and π0's pictures are not "
                    "scaled by statistics; train with VISUAL at IDENTITY"
                )

    def _scaling(
        self, registry_name: str, key: str, feature: str, kind: NormalizationKind | None, dims: int
    ) -> _Scaling:
        step, config = self._steps[registry_name], self._scaling_config(registry_name)
        mode = str(config["norm_map"].get(feature, "IDENTITY")) if kind is None else MODE_OF[kind]
        if mode not in {*RANGES, "MEAN_STD", "IDENTITY"}:
            raise InputError(f"{self._folder}: {registry_name} scales {key} by {mode!r}, not one of LeRobot's modes")
        epsilon = config.get("eps", 1e-8)
        if not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
            raise InputError(f"{self._folder}: {registry_name} has eps {epsilon!r}; it must be a small number")
        source = registry_name if config.get("stats") else str(step.get("state_file"))
        return _Scaling(key, mode, self._statistics(step, config, key), float(epsilon), source, dims)

    def _statistics(self, step: Mapping[str, Any], config: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Statistics stand in the step's state file, or in its configuration where they were given to it."""
        if inline := config.get("stats"):
            return dict(inline.get(key, {}))
        if (state_file := step.get("state_file")) is None:
            return {}
        if Path(str(state_file)).name != state_file:
            raise InputError(f"{self._folder}: state_file is {state_file!r}, which is not a file next to it")
        state = TensorFile(self._folder / state_file)
        named = {name.rpartition(".")[2]: name for name in state.names() if name.rpartition(".")[0] == key}
        return {short: state.read(name).double().numpy() for short, name in named.items()}


def _as_range(scaling: _Scaling) -> Statistics:
    low, width = scaling.range()
    return Statistics(q01=low, q99=low + width - EPSILON)


def _as_mean(scaling: _Scaling) -> Statistics:
    center, scale = scaling.center_and_scale()
    return Statistics(mean=center, std=scale - EPSILON)
