"""Which features of a LeRobot data set are a policy's pictures and vectors.

The names are those that openpi's own configurations read (`repack_transforms` in `openpi/training/config.py`) and those
that LeRobot's documentation and converters write (`docs/source/libero.mdx`, `examples/port_datasets/port_droid.py`). A
policy of layout `lerobot` says its features' names itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.errors import InputError
from vlapack.observations.lerobot_info import is_depth_map
from vlapack.robots.fields import Field
from vlapack.robots.images import CHANNELS
from vlapack.robots.layouts import layout_of

PICTURES = ("video", "image")
PICTURE_AXES = 3
NUMBERS = ("float32", "float64", "float16", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))

_ALOHA = {
    "cam_high": ("observation.images.cam_high", "observation.images.top"),
    "cam_left_wrist": ("observation.images.cam_left_wrist",),
    "cam_right_wrist": ("observation.images.cam_right_wrist",),
    "state": ("observation.state",),
}
NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "libero": {
        "image": ("observation.images.image", "image"),
        "wrist_image": ("observation.images.image2", "observation.images.wrist_image", "wrist_image"),
        "state": ("observation.state", "state"),
    },
    "droid": {
        "exterior_image_1_left": ("exterior_image_1_left", "observation.images.exterior_1_left"),
        "wrist_image_left": ("wrist_image_left", "observation.images.wrist_left"),
        "joint_position": ("joint_position", "observation.state.joint_position"),
        "gripper_position": ("gripper_position", "observation.state.gripper_position"),
    },
    "aloha": _ALOHA,
    "aloha_unadapted": _ALOHA,
}
"""Layout → the field's name → the features that mean the same; the first that is there is taken."""

UNUSED = frozenset({"observation.images.cam_low"})
"""Cameras that robots have and no policy of theirs reads."""

Renaming = Mapping[str, str | None]
"""The data set's feature → the field of the policy's observation that it is; None: it is nothing of the policy's.

None also drops a field of the metadata or a column that is otherwise refused as unknown.
"""


def parse_renaming(text: str | None) -> Renaming:
    """Read the setting `rename_map`: a JSON object, as LeRobot's own of that name is.

    Raises:
        InputError: it is none.
    """
    try:
        document = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"`rename_map={text!r}`: not JSON ({error}); {_example('cam_high')}") from error
    if not (isinstance(document, dict) and all(isinstance(value, str | None) for value in document.values())):
        raise InputError(f"`rename_map={text!r}`: not an object of names; {_example('cam_high')}")
    return document


def match_features(
    features: Mapping[str, Mapping[str, Any]], config: PolicyConfig, renaming: Renaming, where: Path
) -> dict[Field, str]:
    """Return the feature that each field of the policy's observation is read from; optional cameras may lack one.

    Args:
        features: `features` of the data set's info.
        config: the policy's.
        renaming: what the user says of single features, before all names that are known.
        where: the info's file, for messages.

    Raises:
        InputError: a field without a feature, a feature of another kind or width, an optional camera that is missing
            while the data set has one that nothing reads, or a renaming of what is not there.
    """
    fields = {field.name: field for field in layout_of(config).fields}
    found = ", ".join(f"{name} {each.get('dtype')} {each.get('shape')}" for name, each in features.items())
    for feature, name in renaming.items():
        if feature not in features:
            raise InputError(f"{where}: `rename_map` names {feature!r}, which is not there. Found: {found}")
        if name is not None and name not in fields:
            raise InputError(f"`rename_map`: {feature!r} cannot be {name!r}; this policy reads {', '.join(fields)}")
    matched: dict[Field, str] = {}
    lacking = []
    for name, field in fields.items():
        said = [feature for feature, other in renaming.items() if other == name]
        known = (name,) if config.robot is not None else NAMES[config.layout][name]
        saved = [feature for feature, other in config.rename_map.items() if other in known]
        there = [
            feature
            for feature in (*said, *saved, *known)
            if feature in features and renaming.get(feature, name) == name
        ]
        if there:
            matched[field] = there[0]
            lacking += _misfit(field, there[0], features[there[0]])
        elif not field.optional:
            lacking.append(f"{name}: {' or '.join(known)}")
    cameras = [name for name, each in features.items() if each.get("dtype") in PICTURES and not is_depth_map(each)]
    unread = [name for name in cameras if name not in matched.values()]
    unknown = [name for name in unread if name not in renaming and name not in UNUSED]
    missing = [name for name, field in fields.items() if field not in matched]
    if missing and unknown and not lacking:
        lacking.append(
            f"{' and '.join(missing)}, unless {' and '.join(unknown)} is something else (`rename_map` to null)"
        )
    if lacking:
        raise InputError(
            f"{where}: a policy of layout {config.layout} reads {'; '.join(lacking)}. Found: {found}. Say which is "
            f"which: {_example((missing or list(fields))[0], (unknown or list(features))[0])}"
        )
    return matched


def _misfit(field: Field, feature: str, described: Mapping[str, Any]) -> list[str]:
    """Say what keeps a feature from being the field; nothing if it can be."""
    dtype, shape = described.get("dtype"), described.get("shape")
    if not (isinstance(shape, list) and all(isinstance(size, int) and size > 0 for size in shape)):
        return [f"{feature} with a shape, not {shape}"]
    if field.width is None:
        if dtype not in PICTURES:
            return [f"{feature} of type {' or '.join(PICTURES)}, not {dtype}"]
        return [] if len(shape) == PICTURE_AXES and CHANNELS in shape else [f"{feature} of three colors, not {shape}"]
    if dtype not in NUMBERS:
        return [f"{feature} of type {' or '.join(NUMBERS)}, not {dtype}"]
    # LeRobot writes a vector of one number as a number.
    return (
        []
        if shape == [field.width] or (field.width == 1 and not shape)
        else [f"{feature} of shape {[field.width]}, not {shape}"]
    )


def _example(field: str, feature: str = "observation.images.front") -> str:
    return f"`rename_map={json.dumps({feature: field})!r}`"
