"""One robot's observation, key by key: what every layout reads the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlapack.errors import InputError
from vlapack.robots.fields import PROMPT_KEY

PROMPT = "pick up the black bowl and put it on the plate"
"""The instruction of the example observations."""


@dataclass(frozen=True, eq=False)
class RobotInputs:
    """One observation in terms that no longer depend on the robot.

    Attributes:
        images: uint8 [H, W, 3] per camera, in the network's order.
        image_masks: which cameras the robot has.
        state: float64 [D], in the robot's units.
        prompt: the instruction; None where the observation has none.
    """

    images: tuple[np.ndarray, ...]
    image_masks: tuple[bool, ...]
    state: np.ndarray
    prompt: str | None


def get(observation: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key; InputError names the ones that are there."""
    if key not in observation:
        raise InputError(f"the observation has no {key!r}; it has {sorted(map(str, observation))}")
    return observation[key]


def parse_state(value: Any, key: str, dim: int) -> np.ndarray:
    """Return a finite vector of numbers [dim] as float64; InputError names `key` and what it held."""
    state = np.asarray(value)
    if not (np.issubdtype(state.dtype, np.floating) or np.issubdtype(state.dtype, np.integer)):
        raise InputError(f"{key}: dtype {state.dtype}; a state is a vector of numbers")
    if state.shape != (dim,):
        raise InputError(f"{key}: shape {state.shape}; this robot's state has shape ({dim},)")
    if not np.isfinite(state).all():
        raise InputError(f"{key}: {state.tolist()} is not finite everywhere")
    return state.astype(np.float64)


def get_prompt(observation: Mapping[str, Any]) -> str | None:
    """Return the observation's instruction; None where it brings none."""
    return parse_prompt(observation[PROMPT_KEY]) if PROMPT_KEY in observation else None


def parse_prompt(value: Any) -> str:
    """Return the text of a string, bytes, or a numpy scalar of one (what a policy server receives)."""
    text = value.item() if isinstance(value, np.ndarray | np.generic) and np.size(value) == 1 else value
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not isinstance(text, str):
        raise InputError(f"prompt: {text!r} is {type(text).__name__}; an instruction is a string")
    if not text.strip():
        raise InputError("prompt: empty; the policy needs an instruction")
    return text


def picture(seed: int) -> np.ndarray:
    """Return noise, uint8 [224, 224, 3]: the picture of an example observation."""
    return np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)
