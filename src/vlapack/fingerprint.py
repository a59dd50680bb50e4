"""What a pack is made of, as one value: two packs of one fingerprint are the same network, up to rounding.

It covers the parent's weights, what the folder says about them (configuration, normalization, tokenizer), the recipe
and the calibration observations. It is compared field by field, so that a conflict can say what differs.

It does not cover what computes. The float sums of calibration and GPTQ depend in their last bit on how they are split,
and a last bit can move a weight to the next integer. So packs of one fingerprint are the same bytes if one vlapack made
them with the same arithmetic too (`ops.arithmetic`: threads, torch, CPU), which the pack says under `made_with`. A
recipe that needs no calibration data is less exposed, but nothing more is promised for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vlapack.files import raw_bytes

WEIGHTS_ONLY = "weights-only"
UNUSED = "unused"
THREADS = "threads"
"""The field of a plan that a resumed run takes from the work it finds, instead of refusing another one."""


@dataclass(frozen=True)
class Fingerprint:
    """The four hashes (SHA-256, hexadecimal) and the pack format."""

    format_version: int
    weights: str
    """Every tensor of the parent: name, dtype, shape, bytes."""
    policy: str
    """Configuration, normalisation statistics and tokenizer."""
    recipe: str
    calibration: str
    """The observations used, `weights-only`, or `unused` where the recipe asks nothing of activations."""

    @property
    def hex(self) -> str:
        """One SHA-256 over all fields."""
        return digest(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "format_version": self.format_version,
            "weights": self.weights,
            "policy": self.policy,
            "recipe": self.recipe,
            "calibration": self.calibration,
        }


def digest(document: Any) -> str:
    """Return the SHA-256 of a JSON document; the order of keys does not matter."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_weights(names: Iterable[str], read: Callable[[str], Tensor]) -> str:
    """Hash every tensor of a checkpoint, one in memory at a time."""
    total = hashlib.sha256()
    for name in sorted(names):
        tensor = read(name)
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        total.update(hashlib.sha256(raw_bytes(tensor)).digest())
    return total.hexdigest()


def digest_observations(observations: Sequence[Mapping[str, Any]]) -> str:
    """Hash observation dictionaries: pictures and states by their values, prompts by their text, order included."""
    total = hashlib.sha256()
    for observation in observations:
        _update(total, observation)
    return total.hexdigest()


def _update(total: hashlib._Hash, observation: Mapping[str, Any]) -> None:
    for key in sorted(observation):
        value = observation[key]
        if isinstance(value, Mapping):  # ALOHA's pictures
            total.update(f"{key} holds {len(value)} ".encode())
            _update(total, value)
        elif isinstance(value, str):
            total.update(f"{key} text {len(value)} {value} ".encode())
        else:
            array = np.ascontiguousarray(value)
            total.update(f"{key} {array.dtype} {array.shape} ".encode())
            total.update(array.tobytes())


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name the fields in which two JSON documents differ, with both values; long hashes are shortened."""

    def show(value: Any) -> str:
        return f"{value[:10]}…" if isinstance(value, str) and len(value) == 64 else repr(value)

    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return [f"{key}: {show(found.get(key))} there, {show(wanted.get(key))} here" for key in keys]


def taken_up(begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Compare the plan of unfinished work with the one that would go on there.

    Any number of threads is possible anywhere, so the run that goes on uses the one that was used before.

    Returns:
        The plan to go on with, and what forbids that (as `differences`).
    """
    plan = dict(wanted)
    if THREADS in plan and THREADS in begun:
        plan[THREADS] = begun[THREADS]
    return plan, differences(begun, plan)
