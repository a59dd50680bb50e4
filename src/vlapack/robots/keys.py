"""One robot's observation, key by key: what every layout reads the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlapack.errors import InputError
from vlapack.robots.arrays import as_array, check_observation, keys_of, shown
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
    check_observation(observation)
    if key not in observation:
        raise InputError(f"the observation has no {key!r}; it has {keys_of(observation)}")
    return observation[key]


def parse_state(value: Any, key: str, dim: int) -> np.ndarray:
    """Return a finite vector of numbers [dim] as float64; InputError names `key` and what it held."""
    state = as_array(value, key)
    if state.dtype.kind not in "iuf":
        raise InputError(f"{key}: dtype {state.dtype}; a state is a vector of numbers")
    if state.shape != (dim,):
        raise InputError(f"{key}: shape {state.shape}; this robot's state has shape ({dim},)")
    # The network's numbers are float32: what is larger than they are would become infinite there.
    with np.errstate(over="ignore"):
        numbers = state.astype(np.float64)
    if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
        raise InputError(f"{key}: {state.tolist()} is not finite everywhere")
    return numbers


def get_prompt(observation: Mapping[str, Any]) -> str | None:
    """Return the observation's instruction; None where it brings none."""
    return parse_prompt(observation[PROMPT_KEY]) if PROMPT_KEY in observation else None


def parse_prompt(value: Any) -> str:
    """Return the text of a string, bytes, or a numpy scalar of one (what a policy server receives).

    Raises:
        InputError: anything else, an empty one, or one that is not Unicode: half a surrogate pair, other bytes.
    """
    text = value.item() if isinstance(value, np.ndarray | np.generic) and np.size(value) == 1 else value
    try:
        if isinstance(text, bytes):
            text = text.decode()
        if isinstance(text, str):
            text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise InputError(f"prompt: {shown(text)} is not Unicode: {error.reason} at {error.start}") from error
    if not isinstance(text, str):
        raise InputError(f"prompt: {shown(text)}; an instruction is a string")
    if not text.strip():
        raise InputError("prompt: empty; the policy needs an instruction")
    return text


def picture(seed: int) -> np.ndarray:
    """Return noise, uint8 [224, 224, 3]: the picture of an example observation."""
    return np.random.default_rng(seed).integers(0, 256, (224, 224, 3), dtype=np.uint8)
