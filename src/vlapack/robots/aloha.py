"""ALOHA: two arms of six joints and a gripper each, in the units that π0 was pre-trained in (openpi's `AlohaInputs`).

ALOHA's runtime counts two joints of each arm the other way round, and gives a gripper as a position between open and
closed where π0 knows the angle of the motor that drives it. The constants are ALOHA's and Interbotix's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlapack.checkpoints.features import CAMERA, FEATURES, Features
from vlapack.errors import InputError
from vlapack.robots.arrays import keys_of
from vlapack.robots.fields import Field
from vlapack.robots.images import parse_image
from vlapack.robots.keys import PROMPT, RobotInputs, get, get_prompt, parse_state, picture

FLIPS = np.array([1, -1, -1, 1, 1, 1, 1] * 2)
GRIPPERS = (6, 13)

# A gripper's two fingers, m: closed and open.
FINGER_CLOSED, FINGER_OPEN = 0.01844, 0.05800
# The crank that the gripper's motor turns, m.
ARM, HORN = 0.036, 0.022
# π0's gripper: 0 and 1 are the motor's encoder counts 2405 and 3110 (of 4096, zero at 2048), in radians.
ANGLE_ZERO, ANGLE_ONE = 0.5476, 1.6296
# The leader's gripper joint, closed and open, in radians: what an action commands.
JOINT_CLOSED, JOINT_OPEN = -0.6213, 1.4910

CAMERAS = tuple(name.removeprefix(CAMERA) for name in FEATURES["aloha"].cameras)
UNUSED_CAMERAS = ("cam_low",)


def angle_of(position: np.ndarray) -> np.ndarray:
    """Turn gripper positions in 0 (closed) to 1 (open) into π0's units of the motor's angle."""
    reach = position * (FINGER_OPEN - FINGER_CLOSED) + FINGER_CLOSED
    angle = np.arcsin(np.clip((HORN**2 + reach**2 - ARM**2) / (2 * HORN * reach), -1.0, 1.0))
    return np.asarray((angle - ANGLE_ZERO) / (ANGLE_ONE - ANGLE_ZERO))


def command_of(angle: np.ndarray) -> np.ndarray:
    """Turn π0's gripper actions, which are radians from `ANGLE_ZERO` on, into ALOHA's commands, 0 to 1."""
    return np.asarray((angle + ANGLE_ZERO - JOINT_CLOSED) / (JOINT_OPEN - JOINT_CLOSED))


def command_angle(command: np.ndarray) -> np.ndarray:
    """Undo `command_of`: ALOHA's gripper commands, as π0's gripper actions."""
    return np.asarray(command * (JOINT_OPEN - JOINT_CLOSED) + JOINT_CLOSED - ANGLE_ZERO)


@dataclass(frozen=True)
class AlohaLayout:
    """Three cameras, of which the wrists' may be missing; 14 joints in, 14 out.

    Attributes:
        adapt: turn joints and grippers into π0's units and back, as every configuration of openpi's does.
    """

    adapt: bool = True
    features: Features = FEATURES["aloha"]
    gripper: tuple[int, ...] = GRIPPERS

    @property
    def action_names(self) -> tuple[str, ...]:
        """Left arm, then right: six joints and the gripper each."""
        return self.features.actions

    @property
    def fields(self) -> tuple[Field, ...]:
        """Three pictures, of which the wrists' may be missing, and the state."""
        cameras = (Field(("images", camera), optional=camera != CAMERAS[0]) for camera in CAMERAS)
        return (*cameras, Field(("state",), self.features.state))

    def canonical(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the observation: its keys are those of `fields`."""
        return observation

    def inputs(self, observation: Mapping[str, Any]) -> RobotInputs:
        """Read `images` (by ALOHA's camera names, at least `cam_high`), `state` [14] and `prompt`."""
        pictures = get(observation, "images")
        if not isinstance(pictures, Mapping) or (set(pictures) - {*CAMERAS, *UNUSED_CAMERAS}):
            found = keys_of(pictures) if isinstance(pictures, Mapping) else type(pictures).__name__
            raise InputError(f"images: {found}; ALOHA's cameras are {', '.join((*CAMERAS, *UNUSED_CAMERAS))}")
        high = parse_image(get(pictures, CAMERAS[0]), CAMERAS[0])
        state = parse_state(get(observation, "state"), "state", self.features.state)
        if self.adapt:
            state = FLIPS * state
            state[list(GRIPPERS)] = angle_of(state[list(GRIPPERS)])
        return RobotInputs(
            images=(
                high,
                *(parse_image(pictures[c], c) if c in pictures else np.zeros_like(high) for c in CAMERAS[1:]),
            ),
            image_masks=(True, *(camera in pictures for camera in CAMERAS[1:])),
            state=state,
            prompt=get_prompt(observation),
        )

    def outputs(self, actions: np.ndarray) -> np.ndarray:
        """Keep the first 14 dimensions, in ALOHA's units again."""
        actions = actions[..., : len(self.action_names)]
        if self.adapt:
            actions = FLIPS * actions
            actions[..., list(GRIPPERS)] = command_of(actions[..., list(GRIPPERS)])
        return actions

    def undo_outputs(self, actions: np.ndarray) -> np.ndarray:
        """Turn ALOHA's commands back into π0's units."""
        if self.adapt:
            actions = FLIPS * actions
            actions[..., list(GRIPPERS)] = command_angle(actions[..., list(GRIPPERS)])
        return actions

    def example(self) -> dict[str, Any]:
        """Return an observation in openpi's ALOHA keys, pictures [3, H, W] as its runtime sends them."""
        return {
            "images": {camera: picture(index).transpose(2, 0, 1) for index, camera in enumerate(CAMERAS)},
            "state": np.linspace(0.0, 1.0, self.features.state),
            "prompt": PROMPT,
        }
