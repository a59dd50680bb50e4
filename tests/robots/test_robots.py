"""Observations of every robot: what is recorded comes back, and data sets are read under the names that people use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_robot import LEROBOTS_DROID, ROBOTS
from lerobot_folder import TASKS, brightness
from small import random_observations, write_random_checkpoint

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.pack.contents import layers_of
from vlapack.errors import InputError
from vlapack.fingerprint import digest_observations
from vlapack.observations.folder import load_observations, open_source
from vlapack.observations.frame import as_recorded
from vlapack.observations.recorder import Recorder
from vlapack.packing.parent import Parent
from vlapack.packing.streaming import stream
from vlapack.plan.selected import groups
from vlapack.policy.policy import Policy
from vlapack.recipe.presets import preset
from vlapack.robots.layouts import layout_of

WRISTS = ("cam_left_wrist", "cam_right_wrist")


def record(folder: Path, robot: str, observations: list[dict[str, Any]]) -> Path:
    config = ROBOTS[robot].config
    layout = layout_of(config)
    recorder = Recorder(folder, config.layout, layout.fields)
    for observation in observations:
        recorder.add(as_recorded(observation, layout, "test", default_prompt=config.default_prompt))
    return folder


@pytest.mark.parametrize("robot", ROBOTS)
def test_what_is_recorded_comes_back_in_the_layouts_own_keys(robot: str, tmp_path: Path) -> None:
    config = ROBOTS[robot].config
    observations = random_observations(3, layout=layout_of(config))
    found = load_observations(record(tmp_path / "seen", robot, observations), config=config)
    np.testing.assert_equal(found, observations)
    assert json.loads((tmp_path / "seen/index.json").read_text())["layout"] == config.layout


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_data_set_under_openpis_names_is_read(robot: str, tmp_path: Path) -> None:
    given = ROBOTS[robot]
    layout = layout_of(given.config)
    frames = open_source(given.write_dataset(tmp_path), given.config).take(25)
    cameras = [part for part in layout.fields if part.width is None]
    for index, frame in enumerate(frames):
        assert frame.observation["prompt"] == TASKS[frame.source["episode_index"] % 2]
        assert layout.inputs(frame.observation).image_masks[: len(given.cameras)] == (True,) * len(given.cameras)
        for number, part in enumerate(cameras[: len(given.cameras)]):
            assert abs(part.get(frame.observation).mean() - brightness(index, number)) < 10
        for part in layout.fields:
            if part.width is not None:
                assert part.get(frame.observation).tolist() == [index, *[0] * (part.width - 1)]


def test_droid_as_lerobot_converts_it(tmp_path: Path) -> None:
    cameras, vectors = LEROBOTS_DROID
    folder = ROBOTS["droid"].write_dataset(tmp_path, cameras=cameras, vectors=vectors)
    [frame] = open_source(folder, ROBOTS["droid"].config).take(1)
    assert frame.observation["observation/gripper_position"].shape == (1,)


def test_a_frame_without_an_instruction_has_the_policys(tmp_path: Path) -> None:
    folder = ROBOTS["aloha"].write_dataset(tmp_path, tasks=("", ""))
    config = ROBOTS["aloha"].config
    assert {found["prompt"] for found in load_observations(folder, 2, config=config)} == {"uncap the pen"}
    with pytest.raises(InputError, match=r"file-000.parquet: row \d \(episode 0 frame \d\): .* no default prompt"):
        load_observations(folder, 2, config=replace(config, default_prompt=None))


def test_a_recording_of_another_robot_is_refused_naming_both(tmp_path: Path) -> None:
    folder = record(tmp_path / "seen", "droid", random_observations(1, layout=layout_of(ROBOTS["droid"].config)))
    with pytest.raises(InputError, match=r"index.json: observations of layout 'droid'; expected is 'aloha': record"):
        open_source(folder, ROBOTS["aloha"].config)
    assert len(open_source(folder)) == 1


def test_a_recording_of_other_cameras_is_refused(tmp_path: Path) -> None:
    arm = ROBOTS["lerobot"]
    folder = record(tmp_path / "seen", "lerobot", random_observations(1, layout=layout_of(arm.config)))
    assert arm.config.robot is not None
    cameras = (*arm.cameras[:2], "observation.images.top")
    other = replace(arm.config, robot=replace(arm.config.robot, cameras=cameras))
    with pytest.raises(InputError, match=r"observation 0 has observation.images.wrist; this policy knows .*top"):
        load_observations(folder, config=other)


def write_renamed(root: Path) -> Path:
    cameras = ("observation.images.cam_high", "observation.images.cam_low", "observation.images.left")
    return ROBOTS["aloha"].write_dataset(root, cameras=cameras)


@pytest.mark.parametrize(
    ("rename_map", "message"),
    [
        (None, r"reads cam_left_wrist and cam_right_wrist, unless observation.images.left is something else.*Found: .*"
         r"cam_low.*`rename_map='{\"observation.images.left\": \"cam_left_wrist\"}'`"),
        ("{left}", "not JSON"),
        ("[1]", "not an object of names"),
        ('{"observation.images.right": "cam_right_wrist"}', "'observation.images.right', which is not there. Found"),
        ('{"observation.images.left": "left"}', "cannot be 'left'; this policy reads cam_high, cam_left_wrist"),
        ('{"observation.state": "cam_left_wrist"}', "observation.state of type video or image, not float32"),
    ],
)  # fmt: skip
def test_a_camera_that_may_be_one_of_the_policys_is_asked_about(
    rename_map: str | None, message: str, tmp_path: Path
) -> None:
    folder = write_renamed(tmp_path)
    with pytest.raises(InputError, match=message):
        open_source(folder, ROBOTS["aloha"].config, rename_map=rename_map)


def test_what_the_user_says_of_a_camera_is_done(tmp_path: Path) -> None:
    folder, config = write_renamed(tmp_path), ROBOTS["aloha"].config
    said = open_source(folder, config, rename_map='{"observation.images.left": "cam_left_wrist"}')
    assert set(said.take(1)[0].observation["images"]) == {"cam_high", "cam_left_wrist"}
    assert "without cam_right_wrist" in said.description
    ignored = open_source(folder, config, rename_map='{"observation.images.left": null}')
    assert set(ignored.take(1)[0].observation["images"]) == {"cam_high"}


def test_a_renaming_of_recorded_observations_is_refused(observation_folder: Path) -> None:
    with pytest.raises(InputError, match="`rename_map` goes with LeRobot data sets"):
        open_source(observation_folder, rename_map='{"a": null}')
    with pytest.raises(InputError, match="does not say for which policy"):
        open_source(ROBOTS["libero"].write_dataset(observation_folder.parent / "data set"))


def test_a_camera_that_the_robot_lacks_enters_no_statistics(tmp_path: Path) -> None:
    """Its black picture would: a black patch's embedding is an input like any other."""
    config = ROBOTS["aloha"].config
    folder = write_random_checkpoint(tmp_path / "checkpoint", config)
    policy, layout = Policy.from_pretrained(folder), layout_of(config)
    [observation] = random_observations(1, layout=layout, without=WRISTS)
    assert layout.inputs(observation).image_masks == (True, False, False)
    inputs = policy.observe(observation)
    patches, words = config.architecture.vision.num_patches, int(inputs.token_masks.sum())
    assert words < inputs.tokens.shape[1]

    parent = Parent(open_checkpoint(folder))
    recipe = preset("full")
    selected = layers_of(config.architecture, recipe)
    seen: dict[str, int] = {}
    absmax: dict[str, torch.Tensor] = {}
    for part, found in stream(parent, groups(selected, recipe), recipe, [observation], dtype=torch.float32):
        for group in part:
            if group[0].executed:
                seen[group[0].part] = found[group[0].name].tokens
                absmax[group[0].name] = found[group[0].name].absmax
    assert seen["vision"] == patches
    assert seen["llm"] == patches + words
    whole = policy.model.vision.embeddings(inputs.images[0, :1])
    first = next(name for name in absmax if "vision_tower" in name)
    layer = policy.model.vision.encoder.layers[0]
    expected = layer.layer_norm1(whole).abs().amax(dim=(0, 1)).detach()
    torch.testing.assert_close(absmax[first], expected)


def test_pictures_in_a_dictionary_of_their_own_decide_the_fingerprint() -> None:
    layout = layout_of(ROBOTS["aloha"].config)
    first, again, other = (random_observations(1, seed, layout) for seed in (0, 0, 1))
    assert digest_observations(first) == digest_observations(again)
    other[0]["state"] = first[0]["state"]
    assert digest_observations(first) != digest_observations(other)
    fewer = random_observations(1, 0, layout, without=WRISTS[1:])
    assert digest_observations(first) != digest_observations(fewer)
