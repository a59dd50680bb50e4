"""What a LeRobot folder says about its robot: features, renamed keys, the state in the prompt, relative actions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlapack.checkpoints.features import CAMERA, FEATURES, Features
from vlapack.checkpoints.lerobot_fields import FEATURE, count_of, field_of
from vlapack.checkpoints.processors import ACTION, PREPROCESSOR, STATE, Processors
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.pi0.config import MOST, Pi0Config

EMPTY_CAMERA = re.compile(rf"{re.escape(CAMERA)}empty_camera_\d+")


def read_features(path: Path, document: Mapping[str, Any]) -> Features:
    """Return the robot's features; cameras that LeRobot only pads with (`empty_camera_0`) are none."""
    inputs, outputs = (_features(path, document, name) for name in ("input_features", "output_features"))
    cameras = [name for name, feature in inputs.items() if feature["type"] == "VISUAL"]
    seen = tuple(name for name in cameras if not EMPTY_CAMERA.fullmatch(name))
    dims = {
        name: features[name]["shape"] for name, features in ((STATE, inputs), (ACTION, outputs)) if name in features
    }
    if not seen or len(dims) < 2:
        raise InputError(
            f"{path}: its features are {sorted(inputs)} and {sorted(outputs)}; a policy needs a camera, "
            "observation.state and action. A checkpoint that was only pre-trained has no robot yet: fine-tune it, or "
            "give `config` and `norm_stats`"
        )
    for name, shape in dims.items():
        if len(shape) != 1 or type(shape[0]) is not int or not 1 <= shape[0] <= MOST["action_dim"]:
            raise InputError(
                f"{path}: {name} has shape {shape!r:.200}; it must be one number of dimensions, 1 to "
                f"{MOST['action_dim']}"
            )
    names = document.get("action_feature_names") or [f"action_{index}" for index in range(dims[ACTION][0])]
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"{path}: action_feature_names is {names!r:.200}; it must be a list of names")
    if len(names) != dims[ACTION][0]:
        raise InputError(f"{path}: action_feature_names has {len(names)} names for {dims[ACTION][0]} dimensions")
    return Features(seen, dims[STATE][0], tuple(names))


def _features(path: Path, document: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return the features of one side; LeRobot writes null for none."""
    features = field_of(path, document, name) or {}
    place = f"{path / 'config.json'}: {name}"
    if not isinstance(features, dict):
        raise InputError(f"{place} is {features!r}; it must be an object of features")
    for key, feature in features.items():
        match feature:
            case {"type": str(), "shape": list()}:
                FEATURE.require(f"{place}: {key}", feature)
            case _:
                raise InputError(f"{place}: {key} is {feature!r}; it must have a type and a shape")
    return features


def is_libero(robot: Features) -> bool:
    """Whether a robot is LIBERO's, as LeRobot's own environment shows it."""
    known = FEATURES["libero"]
    return (robot.cameras, robot.state, len(robot.actions)) == (known.cameras, known.state, len(known.actions))


def renaming(path: Path, document: Mapping[str, Any], processors: Processors, robot: Features) -> dict[str, str]:
    """Return the saved renaming; InputError where it names what the policy does not read."""
    known = (*robot.cameras, STATE)
    for old, new in processors.rename_map.items():
        if new not in known and new not in document["input_features"]:
            raise InputError(
                f"{path / PREPROCESSOR}: rename_map makes {old!r} to {new!r}, which this policy does not read; it "
                f"reads {', '.join(known)}: remove the entry"
            )
    return processors.rename_map


def prompt_state_dim(path: Path, document: Mapping[str, Any], robot: Features, architecture: Pi0Config) -> int | None:
    """Return how long the state is in π0.5's prompt, where that is more than the robot's."""
    longest = count_of(path, document, "max_state_dim")
    if architecture.variant == "pi0":
        if longest != architecture.action_dim or robot.state > longest:
            raise InputError(
                f"{path}: max_state_dim is {longest} for a state of {robot.state} and max_action_dim "
                f"{architecture.action_dim}; the network takes states as long as actions"
            )
        return None
    # LeRobot before 0.5 padded the state that it wrote into the prompt, and did not know relative actions yet.
    if "use_relative_actions" in document or robot.state >= longest:
        return None
    say(
        f"note: {path}: read as LeRobot 0.4's, which pads the state in the prompt to {longest} numbers; the folders of "
        "0.5.0 look the same and do not pad: for one of those give `config=FILE.json` without prompt_state_dim"
    )
    return longest


def delta_mask(
    path: Path, document: Mapping[str, Any], processors: Processors | None, robot: Features
) -> tuple[bool, ...]:
    """Return the actions to which the state is added: all but the joints whose names say that they are excluded.

    Raises:
        InputError: the state is shorter than the actions, or the two steps that belong together are not both there.
    """
    step: Mapping[str, Any] | None
    if processors is None:
        trained = absolute = bool(document.get("use_relative_actions"))
        step = {
            "exclude_joints": document.get("relative_exclude_joints"),
            "action_names": document.get("action_feature_names"),
        }
    else:
        step, absolute = processors.relative_actions, processors.makes_absolute
        trained = bool((step or {}).get("enabled", False))
    if trained and not absolute:
        say(f"note: {path}: absolute_actions_processor is off, so actions stay relative to the state, as in LeRobot")
    if not absolute:
        return ()
    if step is None:
        raise InputError(
            f"{path}: absolute_actions_processor is on without a relative_actions_processor, which knows the state; "
            "save the processors again"
        )
    if robot.state < len(robot.actions):
        raise InputError(
            f"{path}: actions are relative to the state, which has {robot.state} dimensions to {len(robot.actions)} of "
            "the actions; LeRobot cannot add them either"
        )
    excluded = [str(name).lower() for name in step.get("exclude_joints") or () if name]
    names = step.get("action_names")
    if names is None or not excluded:
        return (True,) * len(robot.actions)
    mask = [not any(token in str(name).lower() for token in excluded) for name in names[: len(robot.actions)]]
    return (*mask, *(True,) * (len(robot.actions) - len(mask)))
