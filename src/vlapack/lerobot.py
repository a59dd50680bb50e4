"""A pack inside LeRobot: its batches in, its chunks out. What the plugin `lerobot_policy_vlapack` is made of.

LeRobot's processors stand around a policy and normalize; a `Policy` normalizes by itself. So the state of a batch is
taken back to the robot's units, and actions stay normalized. Pictures and prompt are prepared as always, the prompt
with the pack's own tokenizer.

LeRobot's real-time loop keeps what a policy returned, and hands the rest of it back as it was: normalized, and where
actions are relative, seen from the new state. `left_over` takes that.
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
from vlapack.policy.rtc import RealTime, Tail, steering
from vlapack.robots.aloha import AlohaLayout
from vlapack.robots.fields import PROMPT_KEY
from vlapack.robots.layouts import PADDING_FLAGS, layout_of

STATE = "observation.state"


def predict_chunk(
    policy: Policy,
    batch: Mapping[str, Any],
    noise: Tensor,
    *,
    tail: Tail | None = None,
    realtime: RealTime | None = None,
) -> Tensor:
    """Compute action chunks for a batch that LeRobot's preprocessor has prepared.

    Args:
        policy: the pack
        batch: `observation.images.…` float [B, 3, H, W] in 0-1, `observation.state` [B, D] normalized, `task`: B texts
        noise: [B, horizon, action_dim], standard normal
        tail: what is left of the previous chunk, from `left_over`; None for a first chunk
        realtime: how it is continued; None: as in `Policy.infer`

    Returns:
        float32 [B, horizon, robot dimensions], normalized, on the CPU.

    Raises:
        InputError: LeRobot has no processor for this robot, or the batch lacks or holds something unusable, or the tail
            is of another batch
    """
    observations = read_batch(policy, batch)
    inputs = Inputs.stack([policy.observe(observation) for observation in observations])
    how = realtime or policy.realtime
    step = steering(tail, how, horizon=policy.noise_shape[0], max_delay=policy.max_delay, device=policy.device)
    return policy.sample(inputs, noise.float().cpu(), step=step)[..., : len(policy.config.features.actions)]


def left_over(policy: Policy, actions: Tensor, delay: int, execution_horizon: int) -> Tail | None:
    """Turn what LeRobot hands back of the previous chunk into what `predict_chunk` continues.

    It is read as `RTCProcessor.denoise_step` of LeRobot 0.6.1 does: the horizon is at most what is left and the delay
    at most the horizon, and the padding of the network's action dimensions is pulled to 0. But rows of zeros at the
    end are left out: LeRobot's loop fills them up to its horizon, and they are no actions of anybody.

    Args:
        policy: the pack
        actions: [n, robot dimensions] or [B, n, robot dimensions], normalized; LeRobot's `prev_chunk_left_over`
        delay: how many of them will have been executed when the new chunk is there, as far as LeRobot knows
        execution_horizon: rows from this one on are free

    Returns:
        The tail; None if nothing is left.

    Raises:
        InputError: another shape, a value that is not finite, or a delay or horizon below 0
    """
    (horizon, width), dims = policy.noise_shape, len(policy.config.features.actions)
    if actions.dim() not in (2, 3) or actions.shape[-1] != dims:
        raise InputError(
            f"prev_chunk_left_over: shape {[*actions.shape]}; it is [n, {dims}]: what is left of the last chunk"
        )
    if delay < 0 or execution_horizon < 0:
        raise InputError(f"inference_delay is {delay} and execution_horizon {execution_horizon}; neither is below 0")
    rows = actions if actions.dim() == 3 else actions[None]
    given = rows.ne(0).any(dim=2).any(dim=0).nonzero()  # NaN is not 0
    left = int(given[-1]) + 1 if len(given) else 0
    if not left:
        return None
    if left > horizon:
        raise InputError(f"prev_chunk_left_over: {left} actions; a chunk of this pack has {horizon}")
    end = min(execution_horizon, left)
    padded = torch.nn.functional.pad(rows[:, :left].float().cpu(), (0, width - dims))
    return Tail(padded, min(delay, end), end)


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
