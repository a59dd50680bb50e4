"""What a robot's observation is called and how many of the action's dimensions are the robot's.

A layout is a frozen dataclass with two methods, as openpi's `LiberoInputs` and `LiberoOutputs` are two transforms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vlapack.errors import InputError
from vlapack.policy.images import parse_image


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


class Layout(Protocol):
    """The two ends of a policy that depend on the robot."""

    @property
    def action_names(self) -> tuple[str, ...]:
        """What each dimension of the robot's action is called."""
        ...

    @property
    def gripper(self) -> tuple[int, ...]:
        """The dimensions whose sign opens or closes a gripper."""
        ...

    def inputs(self, observation: Mapping[str, Any]) -> RobotInputs:
        """Read the robot's observation keys; InputError for what is missing or malformed."""
        ...

    def outputs(self, actions: np.ndarray) -> np.ndarray:
        """Cut actions [..., action_dim] to the robot's dimensions."""
        ...


@dataclass(frozen=True)
class LiberoLayout:
    """LIBERO: end-effector position, axis-angle and two finger positions; 6 pose differences and the gripper.

    The network's third camera, a right wrist, does not exist: black and masked, as in openpi.
    """

    state_dim: int = 8
    action_dim: int = 7
    action_names: tuple[str, ...] = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    gripper: tuple[int, ...] = (6,)

    def inputs(self, observation: Mapping[str, Any]) -> RobotInputs:
        """Read `observation/image`, `observation/wrist_image`, `observation/state` [8] and `prompt`."""
        base = parse_image(_get(observation, "observation/image"), "observation/image")
        wrist = parse_image(_get(observation, "observation/wrist_image"), "observation/wrist_image")
        return RobotInputs(
            images=(base, wrist, np.zeros_like(base)),
            image_masks=(True, True, False),
            state=_parse_state(_get(observation, "observation/state"), "observation/state", self.state_dim),
            prompt=_parse_prompt(observation["prompt"]) if "prompt" in observation else None,
        )

    def outputs(self, actions: np.ndarray) -> np.ndarray:
        """Keep the first 7 dimensions; the rest is padding."""
        return actions[..., : self.action_dim]


LAYOUTS: dict[str, Layout] = {"libero": LiberoLayout()}


def layout(name: str) -> Layout:
    """The layout of a name; InputError for one that is not built yet."""
    if name not in LAYOUTS:
        raise InputError(
            f"layout {name!r} cannot act yet (supported: {', '.join(LAYOUTS)}); its policies can be inspected only"
        )
    return LAYOUTS[name]


def _get(observation: Mapping[str, Any], key: str) -> Any:
    if key not in observation:
        raise InputError(f"the observation has no {key!r}; it has {sorted(map(str, observation))}")
    return observation[key]


def _parse_state(value: Any, key: str, dim: int) -> np.ndarray:
    state = np.asarray(value)
    if not (np.issubdtype(state.dtype, np.floating) or np.issubdtype(state.dtype, np.integer)):
        raise InputError(f"{key}: dtype {state.dtype}; a state is a vector of numbers")
    if state.shape != (dim,):
        raise InputError(f"{key}: shape {state.shape}; this robot's state has shape ({dim},)")
    if not np.isfinite(state).all():
        raise InputError(f"{key}: {state.tolist()} is not finite everywhere")
    return state.astype(np.float64)


def _parse_prompt(value: Any) -> str:
    """A string, or a numpy scalar of one (what a policy server receives)."""
    text = value.item() if isinstance(value, np.ndarray | np.generic) and np.size(value) == 1 else value
    if not isinstance(text, str):
        raise InputError(f"prompt: {text!r} is {type(text).__name__}; an instruction is a string")
    if not text.strip():
        raise InputError("prompt: empty; the policy needs an instruction")
    return text
