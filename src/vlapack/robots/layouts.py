"""What a robot's observation is called and how many of the action's dimensions are the robot's.

A layout is a frozen dataclass with two methods, as openpi's `LiberoInputs` and `LiberoOutputs` are two transforms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vlapack.checkpoints.features import CAMERA, FEATURES, Features
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.errors import InputError
from vlapack.robots.aloha import AlohaLayout
from vlapack.robots.arrays import as_array, check_observation
from vlapack.robots.fields import Field
from vlapack.robots.images import parse_image
from vlapack.robots.keys import PROMPT, RobotInputs, get, get_prompt, parse_prompt, parse_state, picture

LIBERO_CAMERAS = ("observation/image", "observation/wrist_image")
PICTURE_DIMS = 3
PADDING_FLAGS = ("_is_pad", "_padding_mask")
"""What LeRobot's data sets append to a key to say which frames of it are padding."""

DROID_CAMERAS = ("observation/exterior_image_1_left", "observation/wrist_image_left")


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

    @property
    def fields(self) -> tuple[Field, ...]:
        """What an observation holds beside the prompt: the pictures, in the network's order, then the vectors."""
        ...

    def canonical(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an observation under the keys of `fields`."""
        ...

    def inputs(self, observation: Mapping[str, Any]) -> RobotInputs:
        """Read the robot's observation keys; InputError for what is missing or malformed."""
        ...

    def outputs(self, actions: np.ndarray) -> np.ndarray:
        """Turn actions [..., action_dim], of which the first are in the robot's units, into the robot's."""
        ...

    def undo_outputs(self, actions: np.ndarray) -> np.ndarray:
        """Turn the robot's actions [..., D] back into what `outputs` made them of, without the padding."""
        ...

    def example(self) -> dict[str, Any]:
        """Return an observation of this robot, of no particular scene."""
        ...


@dataclass(frozen=True)
class LiberoLayout:
    """LIBERO: end-effector position, axis-angle and two finger positions; 6 pose differences and the gripper.

    The network's third camera, a right wrist, does not exist: black and masked, as in openpi.
    """

    features: Features = FEATURES["libero"]
    gripper: tuple[int, ...] = (6,)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Six differences of the pose, and the gripper."""
        return self.features.actions

    @property
    def fields(self) -> tuple[Field, ...]:
        """Two pictures and the state."""
        return (*(Field((camera,)) for camera in LIBERO_CAMERAS), Field(("observation/state",), self.features.state))

    def canonical(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the observation: its keys are those of `fields`."""
        return observation

    def inputs(self, observation: Mapping[str, Any]) -> RobotInputs:
        """Read `observation/image`, `observation/wrist_image`, `observation/state` [8] and `prompt`."""
        base, wrist = (parse_image(get(observation, camera), camera) for camera in LIBERO_CAMERAS)
        return RobotInputs(
            images=(base, wrist, np.zeros_like(base)),
            image_masks=(True, True, False),
            state=parse_state(get(observation, "observation/state"), "observation/state", self.features.state),
            prompt=get_prompt(observation),
        )

    def outputs(self, actions: np.ndarray) -> np.ndarray:
        """Keep the first 7 dimensions; the rest is padding."""
        return actions[..., : len(self.action_names)]

    def undo_outputs(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions: `outputs` changes no number."""
        return actions

    def example(self) -> dict[str, Any]:
        """Return an observation in openpi's LIBERO keys."""
        return {
            **{camera: picture(index) for index, camera in enumerate(LIBERO_CAMERAS)},
            "observation/state": np.linspace(-0.5, 0.5, self.features.state),
            "prompt": PROMPT,
        }


@dataclass(frozen=True)
class DroidLayout:
    """DROID: seven joints and the gripper, one camera outside and one on the wrist; as openpi's `DroidInputs`."""

    features: Features = FEATURES["droid"]
    gripper: tuple[int, ...] = (7,)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Seven joints (velocities, or positions, as the policy was trained) and the gripper."""
        return self.features.actions

    @property
    def fields(self) -> tuple[Field, ...]:
        """Two pictures, the joints and the gripper."""
        cameras = (Field((camera,)) for camera in DROID_CAMERAS)
        return (*cameras, Field(("observation/joint_position",), 7), Field(("observation/gripper_position",), 1))

    def canonical(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the observation: its keys are those of `fields`."""
        return observation

    def inputs(self, observation: Mapping[str, Any]) -> RobotInputs:
        """Read both cameras, `observation/joint_position` [7], `observation/gripper_position` [1] or [], `prompt`."""
        base, wrist = (parse_image(get(observation, camera), camera) for camera in DROID_CAMERAS)
        joints = parse_state(get(observation, "observation/joint_position"), "observation/joint_position", 7)
        gripper = np.atleast_1d(
            as_array(get(observation, "observation/gripper_position"), "observation/gripper_position")
        )
        return RobotInputs(
            images=(base, wrist, np.zeros_like(base)),
            image_masks=(True, True, False),
            state=np.concatenate([joints, parse_state(gripper, "observation/gripper_position", 1)]),
            prompt=get_prompt(observation),
        )

    def outputs(self, actions: np.ndarray) -> np.ndarray:
        """Keep the first 8 dimensions; the rest is padding."""
        return actions[..., : len(self.action_names)]

    def undo_outputs(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions: `outputs` changes no number."""
        return actions

    def example(self) -> dict[str, Any]:
        """Return an observation in openpi's DROID keys."""
        return {
            **{camera: picture(index) for index, camera in enumerate(DROID_CAMERAS)},
            "observation/joint_position": np.linspace(-1.0, 1.0, 7),
            "observation/gripper_position": np.array([0.5]),
            "prompt": PROMPT,
        }


@dataclass(frozen=True)
class LerobotLayout:
    """Any robot of LeRobot's, by the features of its policy: `observation.images.…`, `observation.state`, a task.

    Attributes:
        features: the policy's.
        rename_map: keys of observations → features' names.
    """

    features: Features
    rename_map: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def action_names(self) -> tuple[str, ...]:
        """The data set's names."""
        return self.features.actions

    @property
    def gripper(self) -> tuple[int, ...]:
        """The dimensions that are called so."""
        return tuple(index for index, name in enumerate(self.action_names) if "gripper" in name.lower())

    @property
    def fields(self) -> tuple[Field, ...]:
        """The cameras, of which some may be missing, and the state."""
        cameras = (Field((camera,), optional=True) for camera in self.features.cameras)
        return (*cameras, Field(("observation.state",), self.features.state))

    def canonical(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the observation with its keys renamed; InputError where two keys mean one."""
        renamed: dict[str, Any] = {}
        for key, value in observation.items():
            name = self.rename_map.get(key, key)
            if name in renamed:
                raise InputError(f"{key}: the observation has {name} twice, once by the policy's `rename_map`")
            renamed[name] = value
        return renamed

    def _require_known(self, observation: Mapping[str, Any]) -> None:
        """Refuse a picture that is none of the policy's cameras: a misspelt one would silently stay black."""
        for key, value in observation.items():
            is_picture = str(key).startswith(CAMERA) or getattr(value, "ndim", 0) >= PICTURE_DIMS
            if is_picture and key not in self.features.cameras and not str(key).endswith(PADDING_FLAGS):
                before = [f"{old} (renamed)" for old, new in self.rename_map.items() if new in self.features.cameras]
                known = ", ".join((*self.features.cameras, *before))
                raise InputError(
                    f"{key}: not a camera of this policy; its cameras are {known}: rename it or leave it out"
                )

    def inputs(self, observation: Mapping[str, Any]) -> RobotInputs:
        """Read the cameras that are there (at least one), `observation.state`, and `prompt` or LeRobot's `task`."""
        check_observation(observation)
        observation = self.canonical(observation)
        self._require_known(observation)
        there = [camera in observation for camera in self.features.cameras]
        first = self.features.cameras[there.index(True) if any(there) else 0]
        black = np.zeros_like(parse_image(get(observation, first), first))
        images = [
            parse_image(observation[camera], camera) if seen else black
            for camera, seen in zip(self.features.cameras, there, strict=True)
        ]
        prompt = observation.get("prompt", observation.get("task"))
        return RobotInputs(
            images=tuple(images),
            image_masks=tuple(there),
            state=parse_state(get(observation, "observation.state"), "observation.state", self.features.state),
            prompt=None if prompt is None else parse_prompt(prompt),
        )

    def outputs(self, actions: np.ndarray) -> np.ndarray:
        """Keep the robot's dimensions; the rest is padding."""
        return actions[..., : len(self.action_names)]

    def undo_outputs(self, actions: np.ndarray) -> np.ndarray:
        """Return the actions: `outputs` changes no number."""
        return actions

    def example(self) -> dict[str, Any]:
        """Return an observation in LeRobot's keys."""
        pictures = {camera: picture(index) for index, camera in enumerate(self.features.cameras)}
        return {**pictures, "observation.state": np.linspace(-0.5, 0.5, self.features.state), "task": PROMPT}


LAYOUTS: dict[str, Layout] = {
    "libero": LiberoLayout(),
    "droid": DroidLayout(),
    "aloha": AlohaLayout(),
    "aloha_unadapted": AlohaLayout(adapt=False),
}


def layout_of(config: PolicyConfig) -> Layout:
    """Return the layout of a policy."""
    return LAYOUTS[config.layout] if config.robot is None else LerobotLayout(config.robot, config.rename_map)
