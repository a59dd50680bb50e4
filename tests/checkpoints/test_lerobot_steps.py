"""The steps of LeRobot's processors: tokenizer, statistics and relative actions are as in LeRobot, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_policy import POST, edit_step, edit_steps, example, folder_of, named, use_small_sizes
from safetensors.torch import load_file, save_file

from vlapack.checkpoints import open_checkpoint, processor_steps
from vlapack.checkpoints.processors import Processors
from vlapack.errors import InputError
from vlapack.policy.policy import Policy


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_sizes(monkeypatch)


def chunk(folder: Path, noise: torch.Tensor | None = None, **changes: Any) -> np.ndarray:
    policy = Policy.from_pretrained(folder)
    noise = torch.ones(policy.noise_shape) if noise is None else noise
    return policy.infer({**example(policy), **changes}, noise=noise)["actions"]


def test_the_tokenizer_steps_length_decides(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    edit_step(folder, "tokenizer_processor", lambda config: config.update(max_length=20))
    assert open_checkpoint(folder).config.architecture.max_token_len == 20
    edit_step(folder, "tokenizer_processor", lambda config: config.update(max_length="20"))
    with pytest.raises(InputError, match="max_length is '20'"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tokenizer_processor", {"padding_side": "left"}, "padding_side is 'left'; .* set it to 'right'"),
        ("tokenizer_processor", {"padding": "longest"}, "padding is 'longest'"),
        ("tokenizer_processor", {"truncation": False}, "truncation is False"),
        ("tokenizer_processor", {"task_key": "instruction"}, "task_key is 'instruction'"),
        ("tokenizer_processor", {"tokenizer_name": "google/gemma-3"}, r"tokenizer 'google/gemma-3'.* `tokenizer=FILE`"),
        ("device_processor", {"float_dtype": "bfloat16"}, "float_dtype is 'bfloat16'; observations .* rounded"),
        (processor_steps.PREPARE, {"include_state_in_prompt": False}, "include_state_in_prompt is False"),
        (processor_steps.PREPARE, {"task_key": "x"}, "task_key is 'x'"),
        ("normalizer_processor", {"eps": "tiny"}, "eps 'tiny'"),
        ("rename_observations_processor", {"rename_map": ["x"]}, "rename_map is .*must map names"),
        (
            "rename_observations_processor",
            {"rename_map": {"a": "observation.images.b"}},
            "'observation.images.b', which",
        ),
    ],
)
def test_a_steps_value_that_would_act_otherwise_is_refused(
    tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    folder = folder_of("pi05", tmp_path)
    if "tokenizer_name" in change:
        (folder / "tokenizer.model").unlink()
    edit_step(folder, name, lambda config: config.update(change))
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder)


def test_another_tokenizer_may_be_in_the_folder_or_given(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    edit_step(folder, "tokenizer_processor", lambda config: config.update(tokenizer_name="mine/gemma"))
    assert open_checkpoint(folder).tokenizer == folder / "tokenizer.model"
    moved = (folder / "tokenizer.model").rename(tmp_path / "mine.model")
    with pytest.raises(InputError, match="'mine/gemma'"):
        open_checkpoint(folder)
    assert open_checkpoint(folder, tokenizer=moved).tokenizer == moved
    edit_step(folder, "tokenizer_processor", lambda config: config.update(tokenizer_name="tokenizer"))
    edit_steps(
        folder, lambda steps: named(steps, "tokenizer_processor").update(artifacts={"tokenizer_name": "tokenizer"})
    )
    (folder / "tokenizer").mkdir()
    own = moved.rename(folder / "tokenizer" / "tokenizer.model")
    assert open_checkpoint(folder).tokenizer == own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda steps: steps.remove(named(steps, processor_steps.PREPARE)), f"no {processor_steps.PREPARE}"),
        (lambda steps: steps.insert(2, {"registry_name": processor_steps.NEW_LINE}), "is not a step of LeRobot's pi05"),
        (lambda steps: steps.append(dict(steps[0])), "the step rename_observations_processor appears twice"),
        (lambda steps: steps.append(steps.pop(2)), "normalizer_processor comes before relative_actions_processor"),
        (lambda steps: steps.append(steps.pop(3)), "comes before normalizer_processor"),
        (lambda steps: steps.append({"registry_name": "unnormalizer_processor"}), "is not supported there"),
        (lambda steps: steps.append({"class": "my.Crop", "config": {}}), "the step 'my.Crop' is not"),
        (lambda steps: steps[0].update(config=[]) or steps[0].update(config=["x"]), "not an object"),
        (
            lambda steps: named(steps, "normalizer_processor").update(state_file="../n.safetensors"),
            "not a file next",
        ),
    ],
)
def test_other_steps_than_lerobots_own_are_refused(
    tmp_path: Path, change: Callable[[list[Any]], Any], message: str
) -> None:
    folder = folder_of("pi05", tmp_path)
    edit_steps(folder, change)
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"normalize_observation_keys": ["observation.environment_state"]},
        {"normalize_observation_keys": []},
        {"features": {"action": {"type": "ACTION", "shape": [6]}}},
        {"features": {"observation.state": {"type": "ENV", "shape": [6]}}},
        {"norm_map": {"ACTION": "MEAN_STD"}},
    ],
)
def test_a_state_that_lerobot_does_not_normalize_stays_as_it_is(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = folder_of("pi0", tmp_path)
    before = Processors(folder).normalization(None, state=6, actions=6)
    edit_step(folder, "normalizer_processor", lambda config: config.update(change))
    after = Processors(folder).normalization(None, state=6, actions=6)
    x = np.linspace(-2, 2, 6)
    np.testing.assert_allclose(after.normalize("state", x), x, rtol=1e-12)
    np.testing.assert_array_equal(after.unnormalize("actions", x), before.unnormalize("actions", x))


def test_keys_that_name_the_state_leave_it_normalized(tmp_path: Path) -> None:
    folder = folder_of("pi0", tmp_path)
    before = chunk(folder)
    keys = {"normalize_observation_keys": ["observation.state"]}
    edit_step(folder, "normalizer_processor", lambda config: config.update(keys))
    np.testing.assert_array_equal(chunk(folder), before)


def test_statistics_of_pictures_are_refused_where_lerobot_would_use_them(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    edit_step(folder, "normalizer_processor", lambda config: config["norm_map"].update(VISUAL="MEAN_STD"))
    open_checkpoint(folder)  # there are none
    state = next(folder.glob("*normalizer_processor.safetensors"))
    state = folder / "policy_preprocessor_step_3_normalizer_processor.safetensors"
    save_file(load_file(state) | {"observation.images.image.mean": torch.zeros(3, 1, 1)}, state)
    with pytest.raises(InputError, match=r"scales observation.images.image by 'MEAN_STD'.*VISUAL at IDENTITY"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        *(([size], rf"action: 'q01' of its statistics has shape \[{size}\]; .* say \[7\]") for size in (5, 8, 1)),
        ([], r"action\.q01 is 0\.0; it must be a list"),
        ([1, 7], r"action\.q01 has shape \[1, 7\]; .*tables per time step are not supported"),
        ([4, 7], r"action\.q01 has shape \[4, 7\]; .*tables per time step are not supported"),
    ],
)
def test_statistics_of_another_shape_than_the_features_are_refused(
    tmp_path: Path, shape: list[int], message: str
) -> None:
    folder = folder_of("pi05", tmp_path)
    state = folder / "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
    tensors = load_file(state) | {"action.q01": torch.zeros(shape), "action.q99": torch.ones(shape)}
    save_file(tensors, state)
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder)


def test_actions_stay_relative_where_the_last_step_is_off_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of("pi0", tmp_path)
    absolute = chunk(folder)
    assert not capsys.readouterr().err
    edit_step(folder, "absolute_actions_processor", lambda config: config.update(enabled=False), POST)
    relative = chunk(folder)
    assert "actions stay relative to the state, as in LeRobot" in capsys.readouterr().err
    state = np.linspace(-0.5, 0.5, 6) * ([1] * 5 + [0])
    np.testing.assert_allclose(absolute - relative, np.broadcast_to(state, absolute.shape), atol=1e-9)


@pytest.mark.parametrize(
    ("change", "mask"),
    [
        ({"exclude_joints": []}, (True,) * 6),
        ({"exclude_joints": [""]}, (True,) * 6),
        ({"exclude_joints": ["GRIPPER", "joint_1"]}, (True, False, True, True, True, False)),
        ({"action_names": None}, (True,) * 6),
        ({"action_names": ["gripper"]}, (False, *(True,) * 5)),
        ({"enabled": False}, (True,) * 5 + (False,)),  # of training; the other step decides
    ],
)
def test_which_actions_are_absolute_is_decided_as_in_lerobot(
    tmp_path: Path, change: dict[str, Any], mask: tuple[bool, ...]
) -> None:
    folder = folder_of("pi0", tmp_path)
    edit_step(folder, "relative_actions_processor", lambda config: config.update(change))
    assert open_checkpoint(folder).config.delta_mask == mask


def test_a_last_step_without_its_first_is_refused(tmp_path: Path) -> None:
    folder = folder_of("pi0", tmp_path)
    edit_steps(folder, lambda steps: steps.remove(named(steps, "relative_actions_processor")))
    with pytest.raises(InputError, match="absolute_actions_processor is on without a relative_actions_processor"):
        open_checkpoint(folder)
