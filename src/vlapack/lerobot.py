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

from vlapack.checkpoints.features import CAMERA
from vlapack.errors import InputError
from vlapack.policy.inputs import Inputs
from vlapack.policy.policy import Policy
from vlapack.robots.aloha import AlohaLayout
from vlapack.robots.fields import PROMPT_KEY
from vlapack.robots.layouts import PADDING_FLAGS, layout_of

STATE = "observation.state"


def predict_chunk(policy: Policy, batch: Mapping[str, Any], noise: Tensor) -> Tensor:
    """Compute action chunks for a batch that LeRobot's preprocessor has prepared.

    Args:
        policy: the pack
        batch: `observation.images.…` float [B, 3, H, W] in 0-1, `observation.state` [B, D] normalized, `task`: B texts
        noise: [B, horizon, action_dim], standard normal

    Returns:
        float32 [B, horizon, robot dimensions], normalized, on the CPU.

    Raises:
        InputError: LeRobot has no processor for this robot, or the batch lacks or holds something unusable
    """
    observations = read_batch(policy, batch)
    inputs = Inputs.stack([policy.observe(observation) for observation in observations])
    return policy.sample(inputs, noise.float().cpu())[..., : len(policy.config.features.actions)]


def read_batch(policy: Policy, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Turn a batch of LeRobot's into observations, as `Policy.infer` takes them.

    Args:
        policy: the pack
        batch: as in `predict_chunk`

    Returns:
        One observation per row, in the keys of the pack's layout and in the robot's units.

    Raises:
        InputError: as in `predict_chunk`
    """
    layout, robot = layout_of(policy.config), policy.config.features
    if isinstance(layout, AlohaLayout):
        raise InputError(
            f"layout {policy.config.layout}: LeRobot has no processor that turns its joints and grippers into π0's "
            "units; serve the pack instead, with `vlapack serve`"
        )
    if STATE not in batch:
        raise InputError(f"the batch has no {STATE!r}; it has {sorted(batch)}")
    known = (*robot.cameras, *(f"{camera}{flag}" for camera in robot.cameras for flag in PADDING_FLAGS))
    if unknown := sorted(name for name in batch if name.startswith(CAMERA) and name not in known):
        raise InputError(
            f"{', '.join(unknown)}: not a camera of this policy; its cameras are {', '.join(robot.cameras)}: rename it "
            "with LeRobot's `rename_map`"
        )
    states = policy.normalization.unnormalize("state", _numpy(batch[STATE]).astype(np.float64))
    tasks = _tasks(batch, len(states))
    pictures = [field for field in layout.fields if field.width is None]
    vectors = [field for field in layout.fields if field.width is not None]
    cameras = [(field, name) for field, name in zip(pictures, robot.cameras, strict=True) if name in batch]
    ends = np.cumsum([field.width for field in vectors])[:-1]
    observations = []
    for row, state in enumerate(states):
        observation: dict[str, Any] = {PROMPT_KEY: tasks[row]}
        for field, name in cameras:
            field.put(observation, _picture(batch[name][row], name))
        for field, values in zip(vectors, np.split(state, ends), strict=True):
            field.put(observation, values)
        observations.append(observation)
    return observations


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
