"""Observations that are not what a layout needs are refused, with the key, the value and the rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small import small_policy

from vlapack.checkpoints.features import Features
from vlapack.errors import InputError
from vlapack.observations.frame import as_recorded
from vlapack.robots.layouts import LAYOUTS, LerobotLayout, layout_of

PICTURE = np.full((6, 8, 3), 9, dtype=np.uint8)
GOOD = {
    "observation/image": PICTURE,
    "observation/wrist_image": PICTURE,
    "observation/state": np.zeros(8, dtype=np.float32),
    "prompt": "go",
}


def test_the_missing_third_camera_is_black_and_masked() -> None:
    robot = LAYOUTS["libero"].inputs(GOOD)
    assert robot.image_masks == (True, True, False)
    assert robot.images[2].shape == PICTURE.shape
    assert not robot.images[2].any()


def test_a_prompt_may_be_a_numpy_string_or_absent() -> None:
    assert LAYOUTS["libero"].inputs(GOOD | {"prompt": np.asarray("go")}).prompt == "go"
    assert LAYOUTS["libero"].inputs({key: GOOD[key] for key in GOOD if key != "prompt"}).prompt is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation/state": np.zeros(7)}, r"observation/state: shape \(7,\)"),
        ({"observation/state": np.array([0.0] * 7 + [np.nan])}, "observation/state: .*not finite"),
        ({"observation/state": np.array(["0"] * 8)}, "observation/state: dtype"),
        ({"observation/image": "front.png"}, "observation/image: shape"),
        ({"prompt": "  "}, "prompt: empty"),
        ({"prompt": 3}, r"prompt: 3 \(int\); an instruction is a string"),
    ],
)
def test_a_malformed_value_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LAYOUTS["libero"].inputs(GOOD | change)


@pytest.mark.parametrize("key", ["observation/image", "observation/wrist_image", "observation/state"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(InputError, match=f"no '{key}'"):
        LAYOUTS["libero"].inputs({other: value for other, value in GOOD.items() if other != key})


# openpi's own AlohaInputs and AlohaOutputs (adapt_to_pi) on one random state and one row of actions.
STATE = np.array(
    [
        0.61000585,
        0.61588158,
        0.03065112,
        -0.42839724,
        -0.8921386,
        -0.23326224,
        0.2,
        -0.90944961,
        -0.90248458,
        0.99835223,
        0.30473822,
        -0.5309796,
        -0.1301049,
        0.9,
    ]
)
DECODED = np.array(
    [
        0.61000585,
        -0.61588158,
        -0.03065112,
        -0.42839724,
        -0.8921386,
        -0.23326224,
        -0.59997651,
        -0.90944961,
        0.90248458,
        -0.99835223,
        0.30473822,
        -0.5309796,
        -0.1301049,
        0.50164016,
    ]
)
ACTIONS = np.array(
    [
        -0.55622288,
        0.28188028,
        -0.78582101,
        0.38444455,
        0.2707736,
        -0.24697495,
        0.59704669,
        -0.61194905,
        -0.21908217,
        0.59586777,
        -0.23904926,
        0.42651573,
        0.22503561,
        0.88200195,
    ]
)
ENCODED = np.array(
    [
        -0.55622288,
        -0.28188028,
        0.78582101,
        0.38444455,
        0.2707736,
        -0.24697495,
        0.83603025,
        -0.61194905,
        0.21908217,
        -0.59586777,
        -0.23904926,
        0.42651573,
        0.22503561,
        0.97093308,
    ]
)
SO101 = Features(("observation.images.front", "observation.images.wrist"), 3, ("pan", "lift", "gripper.pos"))


def test_aloha_turns_joints_and_grippers_as_openpi_does() -> None:
    robot = LAYOUTS["aloha"].inputs({"state": STATE, "images": {"cam_high": PICTURE, "cam_right_wrist": PICTURE}})
    np.testing.assert_allclose(robot.state, DECODED, atol=1e-7)
    assert robot.image_masks == (True, False, True)
    padded = np.pad(ACTIONS, (0, 18))[None, None]
    np.testing.assert_allclose(LAYOUTS["aloha"].outputs(padded)[0, 0], ENCODED, atol=1e-7)
    assert np.array_equal(padded[0, 0, :14], ACTIONS)


def test_aloha_can_stay_in_its_own_units() -> None:
    layout = LAYOUTS["aloha_unadapted"]
    assert np.array_equal(layout.inputs({"state": STATE, "images": {"cam_high": PICTURE}}).state, STATE)
    assert np.array_equal(layout.outputs(np.pad(ACTIONS, (0, 18))), ACTIONS)


def test_aloha_refuses_cameras_that_it_does_not_have() -> None:
    with pytest.raises(InputError, match=r"cam_front.*cam_high, cam_left_wrist"):
        LAYOUTS["aloha"].inputs({"state": STATE, "images": {"cam_high": PICTURE, "cam_front": PICTURE}})


@pytest.mark.parametrize("gripper", [np.array([0.25]), np.array(0.25), 0.25])
def test_droid_takes_a_gripper_with_and_without_a_dimension(gripper: Any) -> None:
    example = LAYOUTS["droid"].example() | {"observation/gripper_position": gripper}
    robot = LAYOUTS["droid"].inputs(example)
    assert robot.state.shape == (8,)
    assert robot.state[7] == 0.25
    assert robot.image_masks == (True, True, False)


def test_lerobots_features_make_a_layout_and_missing_cameras_are_masked() -> None:
    layout = LerobotLayout(SO101)
    robot = layout.inputs({"observation.images.wrist": PICTURE, "observation.state": np.zeros(3), "task": "go"})
    assert robot.image_masks == (False, True)
    assert (robot.prompt, layout.gripper) == ("go", (2,))
    assert layout.outputs(np.zeros((2, 32))).shape == (2, 3)
    with pytest.raises(InputError, match=r"no 'observation\.images\.front'"):
        layout.inputs({"observation.state": np.zeros(3)})


RENAMED = {"gripper_cam": "observation.images.wrist", "joints": "observation.state"}
SEEN = {"observation.images.front": PICTURE, "observation.images.wrist": PICTURE + 1, "observation.state": np.ones(3)}


def test_saved_names_are_read_as_the_features_that_they_mean() -> None:
    layout = LerobotLayout(SO101, RENAMED)
    back = {"observation.images.wrist": "gripper_cam", "observation.state": "joints"}
    robot = layout.inputs({back.get(key, key): value for key, value in SEEN.items()})
    assert robot.image_masks == (True, True)
    assert np.array_equal(robot.images[1], PICTURE + 1)
    assert np.array_equal(robot.state, np.ones(3))
    assert layout.inputs(SEEN).image_masks == (True, True)  # a robot that has the features' own names
    with pytest.raises(InputError, match=r"gripper_cam: the observation has observation\.images\.wrist twice"):
        layout.inputs(SEEN | {"gripper_cam": PICTURE})
    recorded = as_recorded({back.get(key, key): value for key, value in SEEN.items()} | {"task": "go"}, layout, "here")
    assert recorded.keys() == {*SEEN, "prompt"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("observation.images.wrst", PICTURE),
        ("observation.images.empty_camera_0", PICTURE),
        ("observation.images.depth", PICTURE[..., 0]),
        ("observation.image", PICTURE),
        ("wrist", PICTURE),
        ("pixels", PICTURE[None]),
    ],
)
def test_a_camera_that_the_policy_does_not_know_is_refused(key: str, value: np.ndarray) -> None:
    known = r"observation\.images\.front, observation\.images\.wrist, gripper_cam \(renamed\)"
    with pytest.raises(InputError, match=f"{key}: not a camera of this policy; its cameras are {known}"):
        LerobotLayout(SO101, RENAMED).inputs(SEEN | {key: value})


def test_other_keys_of_an_observation_do_no_harm() -> None:
    flags = {"observation.images.front_is_pad": np.zeros(1, bool), "timestamp": 0.1, "observation.velocity": np.ones(3)}
    assert LerobotLayout(SO101).inputs(SEEN | flags).image_masks == (True, True)


def test_a_layout_and_its_own_features_belong_together() -> None:
    policy = small_policy(layout="lerobot", robot=SO101)
    assert layout_of(policy) == LerobotLayout(SO101)
    renaming = small_policy(layout="lerobot", robot=SO101, rename_map=RENAMED, replan=3)
    assert layout_of(renaming) == LerobotLayout(SO101, RENAMED)
    assert type(policy).from_dict(renaming.to_dict()) == renaming
    assert not {"rename_map", "replan"} & policy.to_dict().keys()
    assert type(policy).from_dict(policy.to_dict()) == policy
    with pytest.raises(InputError, match="lacks the key robot"):
        small_policy(layout="lerobot")
    with pytest.raises(InputError, match="excludes the key robot"):
        small_policy(robot=SO101)
    with pytest.raises(InputError, match=r"features is .*cameras"):
        type(policy).from_dict(policy.to_dict() | {"robot": {"cameras": []}})


@pytest.mark.parametrize("layout", [*LAYOUTS.values(), LerobotLayout(SO101)])
def test_every_example_is_an_observation(layout: Any) -> None:
    robot = layout.inputs(layout.example())
    assert robot.prompt
    assert len(robot.state) == layout.features.state
    assert layout.outputs(np.zeros((3, 32))).shape == (3, len(layout.action_names))
