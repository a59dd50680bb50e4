"""Inside LeRobot a pack acts as it does alone: what LeRobot's processors do around it is taken into account."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import SMALL, random_observations, small_policy, write_random_checkpoint

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.features import Features
from vlapack.checkpoints.processors import Processors
from vlapack.errors import InputError
from vlapack.lerobot import left_over, predict_chunk
from vlapack.packing.make import make_pack
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import RealTime
from vlapack.recipe.recipe import Recipe
from vlapack.robots.layouts import layout_of

ROOT = Path(__file__).parents[1]
NOISE = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(1))
SO101 = Features(("observation.images.front", "observation.images.wrist"), 6, (*"abcde", "gripper"))


def batch_of(
    policy: Policy, observations: list[dict[str, Any]], keys: dict[str, str], state_key: str
) -> dict[str, Any]:
    """What LeRobot's preprocessor hands over."""
    states = np.stack([observation[state_key] for observation in observations])
    return {
        **{
            name: torch.stack([torch.from_numpy(o[key]).permute(2, 0, 1).float() / 255 for o in observations])
            for name, key in keys.items()
        },
        "observation.state": torch.from_numpy(policy.normalization.normalize("state", states)).float(),
        "task": [observation["prompt"] for observation in observations],
    }


def test_a_batch_of_libero_is_acted_on_as_its_observations(random_checkpoint: Path) -> None:
    policy = Policy.from_pretrained(random_checkpoint)
    observations = random_observations(2)
    keys = {"observation.images.image": "observation/image", "observation.images.image2": "observation/wrist_image"}
    batch = batch_of(policy, observations, keys, "observation/state")
    chunk = predict_chunk(policy, batch, NOISE)
    expected = policy.infer_batch(observations, noise=list(NOISE))
    actions = policy.normalization.unnormalize("actions", chunk.double().numpy())
    np.testing.assert_allclose(actions, [result["actions"] for result in expected], atol=1e-5)


def test_a_robot_of_lerobots_own_is_known_by_its_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_policy(
        layout="lerobot", robot=SO101, delta_mask=(True,) * 5 + (False,), architecture=replace(SMALL, num_cameras=2)
    )
    policy = Policy.from_pretrained(write_random_checkpoint(tmp_path / "so101", config))
    example = layout_of(config).example() | {"prompt": "go"}
    batch = batch_of(policy, [example], {name: name for name in SO101.cameras}, "observation.state")
    del batch["observation.images.wrist"]
    chunk = predict_chunk(policy, batch, NOISE[:1])
    assert capsys.readouterr().err.count("without observation.images.wrist: the policy acts without that camera") == 1
    absent = {name: value for name, value in example.items() if name != "observation.images.wrist"}
    actions = policy.normalization.unnormalize("actions", chunk[0].double().numpy())
    actions[:, :5] += example["observation.state"][:5]
    np.testing.assert_allclose(actions, policy.infer(absent, noise=NOISE[0])["actions"], atol=1e-5)
    assert not capsys.readouterr().err  # said once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation.state": ...}, "no 'observation.state'"),
        ({"task": ["one"]}, "2 states and the tasks"),
        (
            {"observation.images.wrst": torch.zeros(2, 3, 8, 8)},
            "wrst: not a camera of this policy; its cameras",
        ),
        ({"observation.images.image": torch.full((2, 3, 8, 8), 3.0)}, r"observation.images.image: values from 3.0"),
    ],
)
def test_batches_that_cannot_be_used_are_named(random_checkpoint: Path, change: dict[str, Any], message: str) -> None:
    policy = Policy.from_pretrained(random_checkpoint)
    keys = {"observation.images.image": "observation/image", "observation.images.image2": "observation/wrist_image"}
    batch = batch_of(policy, random_observations(2), keys, "observation/state") | change
    with pytest.raises(InputError, match=message):
        predict_chunk(policy, {key: value for key, value in batch.items() if value is not ...}, NOISE)


def test_a_chunk_goes_on_from_what_lerobot_hands_back(random_checkpoint: Path) -> None:
    policy = Policy.from_pretrained(random_checkpoint)
    keys = {"observation.images.image": "observation/image", "observation.images.image2": "observation/wrist_image"}
    batch = batch_of(policy, random_observations(2), keys, "observation/state")
    chunk = predict_chunk(policy, batch, NOISE)
    tail = left_over(policy, chunk[:, 1:], 2, 10)
    assert tail is not None
    found = predict_chunk(policy, batch, NOISE.flip(0), tail=tail, realtime=RealTime("inpaint"))
    np.testing.assert_allclose(found[:, :2], chunk[:, 1:3], rtol=0, atol=1e-5)
    assert (found[:, 2] - chunk[:, 3]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("left", "delay", "horizon", "expected"),
    [(3, 1, 10, (3, 1, 3)), (3, 12, 2, (3, 2, 2)), (2, 2, 4, (2, 2, 2)), (0, 5, 4, None), (1, 0, 0, (1, 0, 0))],
)
def test_lerobots_padding_is_no_action_and_its_estimates_are_clipped_as_it_does(
    random_checkpoint: Path, left: int, delay: int, horizon: int, expected: tuple[int, int, int] | None
) -> None:
    policy = Policy.from_pretrained(random_checkpoint)
    given = torch.zeros(10, 7)
    given[:left] = torch.randn(left, 7, generator=torch.Generator().manual_seed(0))
    given[:1, :3] = 0.0  # an action may have zeros in it
    tail = left_over(policy, given, delay, horizon)
    if expected is None:
        assert tail is None
        return
    assert tail is not None
    assert (tail.actions.shape, tail.delay, tail.execution_horizon) == ((1, expected[0], 32), *expected[1:])
    torch.testing.assert_close(tail.actions[0, :, :7], given[:left], rtol=0, atol=0)
    assert tail.guided is None
    assert not tail.actions[..., 7:].any()


@pytest.mark.parametrize(
    ("given", "delay", "message"),
    [
        (torch.ones(3, 8), 0, r"prev_chunk_left_over: shape \[3, 8\]; it is \[n, 7\]"),
        (torch.ones(5, 7), 0, "prev_chunk_left_over: 5 actions; a chunk of this pack has 4"),
        (torch.ones(7), 0, r"shape \[7\]"),
        (torch.full((3, 7), torch.nan), 0, "not finite everywhere"),
        (torch.ones(3, 7), -1, "inference_delay is -1"),
    ],
)
def test_left_over_actions_that_cannot_be_meant_are_one_line(
    random_checkpoint: Path, given: torch.Tensor, delay: int, message: str
) -> None:
    policy = Policy.from_pretrained(random_checkpoint)
    with pytest.raises(InputError, match=message) as caught:
        left_over(policy, given, delay, 10)
    assert "\n" not in str(caught.value)


def test_a_pack_tells_lerobot_what_its_parent_said(tmp_path: Path) -> None:
    config = small_policy(
        layout="lerobot", robot=SO101, delta_mask=(True,) * 5 + (False,), architecture=replace(SMALL, num_cameras=2)
    )
    config = replace(config, replan=2, rename_map={"gripper_cam": "observation.images.wrist"})
    folder = write_random_checkpoint(tmp_path / "so101", config)
    make_pack(open_checkpoint(folder), Recipe(block=8, permute=False, rounding="rtn"), tmp_path / "pack", None)
    processors = Processors(tmp_path / "pack")
    assert processors.rename_map == config.rename_map
    document = json.loads((tmp_path / "pack" / "config.json").read_text())
    assert (document["n_action_steps"], document["chunk_size"], document["replan"]) == (2, 4, 2)
    assert open_checkpoint(tmp_path / "pack").metadata == {"n_action_steps": 2}
    step = processors.relative_actions
    assert step["enabled"]
    assert [not any(word in name for word in step["exclude_joints"]) for name in step["action_names"]] == [True] * 5 + [
        False
    ]
    ours, theirs = open_checkpoint(tmp_path / "pack"), processors.normalization(None, state=6, actions=6)
    x = np.linspace(-1, 1, 6)
    np.testing.assert_allclose(theirs.normalize("state", x), ours.normalization.normalize("state", x), rtol=1e-5)
    assert ours.config == config


def test_lerobots_own_tools_run_a_pack(random_checkpoint: Path, tmp_path: Path) -> None:
    python = os.environ.get("VLAPACK_LEROBOT_PYTHON") or shutil.which("lerobot-python")
    if python is None:
        pytest.skip("VLAPACK_LEROBOT_PYTHON names no Python ≥ 3.12 with lerobot ≥ 0.6 and torch")
    make_pack(
        open_checkpoint(random_checkpoint), Recipe(block=8, permute=False, rounding="rtn"), tmp_path / "pack", None
    )
    policy = Policy.from_pretrained(tmp_path / "pack")
    observations = random_observations(2)
    np.savez(
        tmp_path / "seen.npz",
        noise=NOISE.numpy(),
        task=[observation["prompt"] for observation in observations],
        state=np.stack([observation["observation/state"] for observation in observations]),
        image=np.stack([observation["observation/image"] for observation in observations]),
        image2=np.stack([observation["observation/wrist_image"] for observation in observations]),
        actions=np.stack([r["actions"] for r in policy.infer_batch(observations, noise=list(NOISE))]),
    )
    source = ROOT / "plugins/lerobot_policy_vlapack/src"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(source)])}
    paths = (ROOT / "scripts/check_plugin.py", tmp_path / "pack", tmp_path / "seen.npz", random_checkpoint)
    command = [python, *map(str, paths)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["largest_difference"] < 1e-4
    assert found["real_time_difference"] < 1e-5
    assert found["real_time_effect"] > 0.1
