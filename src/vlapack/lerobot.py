"""A pack inside LeRobot: its batches in, its chunks out. What the plugin `lerobot_policy_vlapack` is made of.

LeRobot's processors stand around a policy and normalize; a `Policy` normalizes by itself. So the state of a batch is
taken back to the robot's units, and actions stay normalized. Pictures and prompt are prepared as always, the prompt
with the pack's own tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.policy.policy import Inputs, Policy

STATE = "observation.state"

# LeRobot's camera names, in the order of `checkpoints.features.FEATURES`, as each layout's own keys.
CAMERA_KEYS: Mapping[str, tuple[str, ...]] = {
    "libero": ("observation/image", "observation/wrist_image"),
    "droid": ("observation/exterior_image_1_left", "observation/wrist_image_left"),
}
JOINTS = 7


def predict_chunk(policy: Policy, batch: Mapping[str, Any], noise: Tensor) -> Tensor:
    """Choose actions for a batch that LeRobot's preprocessor has prepared.

    Args:
        policy: the pack.
        batch: `observation.images.…` float [B, 3, H, W] in 0-1, `observation.state` [B, D] normalized, `task`, B texts.
        noise: [B, horizon, action_dim].

    Returns:
        [B, horizon, robot dimensions], normalized, on the CPU.

    Raises:
        InputError: a robot that LeRobot has no words for, or a batch that the policy cannot use.
    """
    observations = read_batch(policy, batch)
    inputs = Inputs.stack([policy.observe(observation) for observation in observations])
    chunks = policy.model.sample_actions(*inputs.network, noise.float().cpu())
    return chunks[..., : len(policy.config.features.actions)]


def read_batch(policy: Policy, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the observations of a batch, one by one, in the layout's own keys; errors as in `predict_chunk`."""
    layout, robot = policy.config.layout, policy.config.features
    if layout not in (*CAMERA_KEYS, "lerobot"):
        raise InputError(
            f"layout {layout}: LeRobot has no processor that turns its joints and grippers into π0's units; serve the "
            "pack instead, with `vlapack serve`"
        )
    if STATE not in batch:
        raise InputError(f"the batch has no {STATE!r}; it has {sorted(batch)}")
    states = policy.normalization.unnormalize("state", _numpy(batch[STATE]).astype(np.float64))
    tasks = _tasks(batch, len(states))
    cameras = dict(zip(robot.cameras, CAMERA_KEYS.get(layout, robot.cameras), strict=True))
    return [
        {
            **{key: _picture(batch[camera][row], camera) for camera, key in cameras.items() if camera in batch},
            **_state_keys(layout, state),
            "prompt": tasks[row],
        }
        for row, state in enumerate(states)
    ]


def _state_keys(layout: str, state: np.ndarray) -> dict[str, np.ndarray]:
    if layout == "droid":
        return {"observation/joint_position": state[:JOINTS], "observation/gripper_position": state[JOINTS:]}
    return {"observation/state" if layout == "libero" else STATE: state}


def _tasks(batch: Mapping[str, Any], count: int) -> Sequence[str]:
    tasks = batch.get("task")
    tasks = [tasks] * count if isinstance(tasks, str) else tasks
    if tasks is None or len(tasks) != count:
        raise InputError(f"the batch has {count} states and the tasks {tasks!r}; each observation needs one")
    return list(tasks)


def _picture(image: Tensor, camera: str) -> np.ndarray:
    """[3, H, W] in 0-1 → uint8 [H, W, 3], exact for pictures that were uint8 before."""
    if not (image.min() >= 0 and image.max() <= 1):  # also catches NaN
        raise InputError(f"{camera}: values from {float(image.min())} to {float(image.max())}; LeRobot's lie in 0-1")
    return _numpy((image * 255).round().to(torch.uint8).permute(1, 2, 0))


def _numpy(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().cpu())
