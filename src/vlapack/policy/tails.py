"""What is left of a previous chunk, as a robot gives it, and as real-time chunking needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.errors import InputError
from vlapack.policy.adapter import FARTHEST, Adapter
from vlapack.policy.rtc import Tail, check_times
from vlapack.robots.arrays import as_array

Actions: TypeAlias = Tensor | np.ndarray
Value = TypeVar("Value")
PerRow: TypeAlias = Value | Sequence[Value]
"""One value for a whole batch, or one per observation."""


def per_row(name: str, value: Any, count: int) -> list[Any]:
    """Return a `PerRow` as a list; InputError where it has another length."""
    values = [*value] if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise InputError(f"{name}: {len(values)} for {count} observations; give one for each")
    return values


def make_tail(  # noqa: PLR0917 - the policy's three parts, and three arguments of its `infer`
    adapter: Adapter,
    config: PolicyConfig,
    robot_state: np.ndarray,
    previous: Actions | None,
    delay: int,
    execution_horizon: int | None,
) -> Tail | None:
    """Do `Policy.tail`.

    Args:
        adapter: the policy's
        config: the policy's
        robot_state: [1, D], of the new observation
        previous: as in `Policy.infer`
        delay: as there
        execution_horizon: as there
    """
    horizon = config.architecture.action_horizon
    actions = None if previous is None else _read(previous, horizon, len(config.features.actions))
    left = 0 if actions is None else len(actions)
    if actions is None and delay:
        raise InputError(
            f"delay is {delay} without previous actions; give them as `previous`, or `delay=0` for a first chunk"
        )
    end = left if execution_horizon is None else execution_horizon
    check_times(delay, end, left=left, horizon=horizon)
    if actions is None:
        return None
    if execution_horizon is None and config.joining is not None:
        end = config.joining.end(delay, left)
    chunk = adapter.chunks(actions[None], robot_state, config)
    guided, dims = adapter.varying(config), actions.shape[1]
    chunk[..., :dims][..., ~guided[:dims]] = adapter.still
    if not (np.abs(chunk) <= FARTHEST).all():
        raise InputError(f"previous: {actions.tolist()!s:.200} is too far from the statistics to be normalized")
    return Tail(torch.from_numpy(chunk).to(torch.float32), delay, end, torch.from_numpy(guided))


def _read(previous: Actions, horizon: int, dims: int) -> np.ndarray:
    """Return a robot's actions as float64 [n, dims]."""
    actions = as_array(previous, "previous")
    if actions.ndim != 2 or actions.shape[1] != dims or len(actions) > horizon or actions.dtype.kind not in "iuf":
        raise InputError(
            f"previous: {actions.dtype} of shape {[*actions.shape]}; it is [n, {dims}], the actions of the last chunk "
            f"that are not yet executed, at most {horizon}"
        )
    if not np.isfinite(actions).all():
        raise InputError("previous: not finite everywhere; give the actions that the robot is executing")
    return actions.astype(np.float64)
