"""Real-time chunking: a new action chunk that goes on where the previous one is still being carried out.

While the network thinks, the robot executes what is left of the previous chunk, its *tail*. Real-time chunking (Black,
Galliker, Levine, arXiv 2506.07339) steers the new chunk's flow towards that tail, so that the two meet without a jump:
the first `delay` actions will have been executed by then and must be reproduced, the ones after them up to the
execution horizon are a hint that fades, and the rest is free. `steering` makes the `step` for `Pi0.sample_actions`.

Signs and times. The paper (and Physical Intelligence's real-time-chunking-kinetix) integrates from noise at τ = 0 to
actions at τ = 1, along v = actions - noise. openpi's flow, and so everything here, runs from t = 1 - τ = 1 to 0, along
v = noise - actions. What the flow is heading for, A + (1 - τ) v in the paper, is x - t·v here; a correction that
the paper adds to its velocity is subtracted from this one.

A policy that was trained to go on from a prefix (training-time real-time chunking; Black, Ren, Equi, Levine, arXiv
2512.05964) is not pulled: it is given the first `delay` actions, clean and with a flow time of their own, t = 0 here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vlapack.checkpoints.joining import Schedule
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.errors import InputError
from vlapack.pi0.flow import Denoise, Step

Guidance = Literal["lerobot", "vjp", "inpaint", "trained"]
"""How a flow is steered; see `RealTime`."""


@dataclass(frozen=True)
class RealTime:
    """How a new chunk is joined to the tail of the previous one.

    Raises:
        InputError: a name that is none of those, or a weight that is not positive and finite
    """

    guidance: Guidance = "lerobot"
    """`lerobot` pulls the actions that the flow is heading for straight to the tail, as `RTCProcessor` of LeRobot 0.6.1
    does: the Jacobian of the paper's formula is taken for the identity. `vjp` is the paper's: the pull goes back
    through the expert, a vector-Jacobian product per denoise step, and so moves the free actions too. `inpaint` has
    neither gradients nor soft rows: the first `delay` actions run straight from the noise to the tail, and the expert
    sees them there. `trained` gives them to the expert as they are, which only a policy that was trained so can use
    (LeRobot's `rtc_training_max_delay`); for such a one it is the default."""
    schedule: Schedule = "exp"
    """The pull on the rows from the delay to the execution horizon; `inpaint` and `trained` have none there."""
    max_guidance_weight: float = 10.0
    """Bounds the factor of the pull, which is infinite at the first step. LeRobot takes 10, the paper (β) 5."""

    def __post_init__(self) -> None:
        """Refuse names that mean nothing, and a bound that is none."""
        for name, allowed in (("guidance", get_args(Guidance)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r:.100}; it must be one of {', '.join(allowed)}")
        weight = self.max_guidance_weight
        if not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise InputError(f"max_guidance_weight is {weight!r:.100}; it must be a number, positive and finite")


def default_realtime(config: PolicyConfig) -> RealTime:
    """Return how a policy's chunks are joined where nobody says it: as it was trained, and as its folder says."""
    guidance: Guidance = "trained" if config.architecture.max_delay else "lerobot"
    if (said := config.joining) is None:
        return RealTime(guidance)
    return RealTime(guidance, said.schedule, said.max_guidance_weight)


@dataclass(frozen=True, eq=False)
class Tail:
    """What is left of the previous chunk, as the network sees actions; `Policy.tail` makes it.

    Raises:
        InputError: another shape, a value that is not finite, a delay or a horizon that the tail cannot have
    """

    actions: Tensor
    """[B, n, action_dim], normalized, zero-padded, and relative to the new observation's state where the policy's
    actions are. Row i is for the same moment as row i of the new chunk."""
    delay: int
    """d: how many of them will have been executed when the new chunk arrives. Their weight is 1."""
    execution_horizon: int
    """LeRobot's: rows from this one on are free. The paper's s, the actions executed between two inferences, is another
    number: its soft rows end at H - s, which is this one."""
    guided: Tensor | None = None
    """bool [action_dim], the dimensions that are pulled, which padding is not; None for all."""

    def __post_init__(self) -> None:
        """Refuse what fits no chunk."""
        if self.actions.dim() != 3 or not self.actions.is_floating_point():
            raise InputError(
                f"tail: {self.actions.dtype} of shape {[*self.actions.shape]}; it is float [B, n, action_dim]"
            )
        if not bool(self.actions.isfinite().all()):
            raise InputError("tail: not finite everywhere; give the actions that the robot is executing")
        check_times(self.delay, self.execution_horizon, left=self.actions.shape[1])


def check_times(delay: Any, execution_horizon: Any, *, left: int, horizon: int | None = None) -> None:
    """Refuse a delay or an execution horizon that a tail of `left` actions, and chunks of `horizon`, cannot have.

    Raises:
        InputError: it names the value and its bounds.
    """
    for name, value in (("delay", delay), ("execution_horizon", execution_horizon)):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise InputError(f"{name} is {value!r:.100}; it is a number of actions")
    if not 0 <= index(delay) <= left:
        raise InputError(
            f"delay is {delay}; {left} actions of the previous chunk are left, so it is 0 to {left}: ask for the next "
            "chunk earlier"
        )
    if index(execution_horizon) < index(delay) or (horizon is not None and index(execution_horizon) > horizon):
        most = "a chunk's actions" if horizon is None else f"a chunk's {horizon} actions"
        raise InputError(
            f"execution_horizon is {execution_horizon}; it must be at least the delay, {delay}, and at most {most}"
        )


def prefix_weights(schedule: Schedule, delay: int, end: int, horizon: int) -> Tensor:
    """Return how strongly each row of a chunk is pulled, float64 [horizon]: 1 before `delay`, 0 from `end` on.

    Between them (m rows, the k-th counted from 1) `linear` is 1 - k / (m + 1), `exp` is w·(exp(w) - 1) / (e - 1) of
    that w (the paper's, section 3.2), `ones` and `zeros` are constant. Where `end` is less than `delay`, it wins.
    """
    rows = torch.arange(horizon, dtype=torch.float64)
    delay = min(delay, end)
    if schedule == "ones":
        soft = torch.ones_like(rows)
    elif schedule == "zeros":
        soft = torch.zeros_like(rows)
    else:
        soft = 1 - (rows - delay + 1) / (end - delay + 1)
        if schedule == "exp":
            soft = soft * torch.expm1(soft) / math.expm1(1)
    return torch.where(rows < delay, 1.0, torch.where(rows < end, soft, 0.0))


def guidance_weight(t: Tensor, most: float) -> Tensor:
    """Return the factor of the correction at flow times t in (0, 1], bounded by `most`.

    The paper (section 3.1) has (1-τ) / (τ r²) with r² = (1-τ)² / (τ² + (1-τ)²). With τ = 1 - t that is
    (t² + (1-t)²) / (t (1-t)). At t = 1 it is infinite, so `most` counts.
    """
    return ((t**2 + (1 - t) ** 2) / (t * (1 - t))).clamp(max=most)


def steering(
    tails: Tail | Sequence[Tail | None] | None,
    how: RealTime = RealTime(),
    *,
    horizon: int,
    max_delay: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Step | None:
    """Return the `step` for `Pi0.sample_actions` that joins each new chunk to its tail.

    Args:
        tails: one for the whole batch, or one per observation, None for those that have no previous chunk
        how: the guidance
        horizon: H, the actions of a chunk
        max_delay: the network's (`Pi0Config`), which `trained` needs
        device: of the flow
        dtype: of the flow

    Returns:
        The step; None where there is nothing to join, and the chunk is the policy's own.

    Raises:
        InputError: a tail does not fit the chunk or the other tails
    """
    if how.guidance == "trained" and not max_delay:
        raise InputError("guidance is 'trained'; this policy was not trained to go on from given actions: use another")
    parts: list[Tail | None] = [tails] if isinstance(tails, Tail) else [*(tails or ())]
    there = [part for part in parts if part is not None]
    hard = how.guidance in {"inpaint", "trained"}
    if not any(part.delay if hard else part.actions.shape[1] for part in there):
        return None
    widths = {part.actions.shape[2] for part in there}
    if len(widths) > 1 or (len(parts) > 1 and any(len(part.actions) != 1 for part in there)):
        shapes = [[*part.actions.shape] for part in there]
        raise InputError(f"tails: shapes {shapes}; one per observation is [1, n, action_dim] each")
    (width,) = widths
    if how.guidance == "trained":
        _require_known(max(index(part.delay) for part in there), max_delay)
    targets, weights = zip(*(_laid_out(part, how, horizon, width) for part in parts), strict=True)
    return _Steering(torch.cat(targets).to(device, dtype), torch.cat(weights).to(device, dtype), how)


def _require_known(delay: int, max_delay: int) -> None:
    """Refuse a longer prefix than the policy saw in training."""
    if delay > max_delay:
        raise InputError(
            f"delay is {delay}; this policy was trained to go on from at most {max_delay} actions: ask for the next "
            "chunk earlier, or use another guidance"
        )


def _laid_out(tail: Tail | None, how: RealTime, horizon: int, width: int) -> tuple[Tensor, Tensor]:
    """Return a tail's actions and weights as large as a chunk, [B, H, width] each; without a tail nothing weighs."""
    if tail is None:
        return 2 * (torch.zeros(1, horizon, width, dtype=torch.float64),)
    batch, left, _ = tail.actions.shape
    if left > horizon:
        raise InputError(f"tail: {left} actions; a chunk has {horizon}, of which the tail is what is left")
    check_times(tail.delay, tail.execution_horizon, left=left, horizon=horizon)
    schedule: Schedule = "zeros" if how.guidance in {"inpaint", "trained"} else how.schedule
    # Beyond the tail there is nothing to be pulled to, as in LeRobot.
    rows = prefix_weights(schedule, index(tail.delay), min(index(tail.execution_horizon), left), horizon)
    # What the network is given has its padding too, as in training.
    whole = tail.guided is None or how.guidance == "trained"
    guided = torch.ones(width) if whole or tail.guided is None else tail.guided.cpu()
    actions = torch.nn.functional.pad(tail.actions.detach().double().cpu(), (0, 0, 0, horizon - left))
    return actions, (rows[:, None] * guided).expand(batch, horizon, width)


class _Steering:
    """A `Step` towards `target` [B or 1, H, D], by `weights` of the same shape."""

    def __init__(self, target: Tensor, weights: Tensor, how: RealTime) -> None:
        self._target = target
        self._weights = weights
        # Padding flows by itself: neither pulled nor moved by what the pull goes back through.
        self._dimensions = (weights > 0).any(dim=1, keepdim=True)
        self._how = how

    def __call__(self, denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        target, weights = self._target, self._weights
        if target.shape[1:] != x_t.shape[1:] or len(target) not in (1, len(x_t)):
            raise InputError(f"tails: for chunks of shape {[*target.shape]}, and the batch has {[*x_t.shape]}")
        time = t[:, None, None]
        if self._how.guidance in {"inpaint", "trained"}:
            frozen, straight = weights > 0, (x_t - target) / time
            if self._how.guidance == "trained":
                clean = frozen[..., 0].expand(x_t.shape[:2])
                velocity = denoise(torch.where(frozen, target, x_t), t[:, None].masked_fill(clean, 0.0))
            else:
                # Their velocity leads straight to the target, so these rows are t · noise + (1 - t) · target.
                velocity = denoise(x_t, t)
            return torch.where(frozen, straight, velocity)
        if self._how.guidance == "lerobot":
            velocity = denoise(x_t, t)
            correction = (target - (x_t - time * velocity)) * weights
        else:
            if torch.is_inference_mode_enabled():
                raise InputError(
                    "`guidance='vjp'` differentiates, which torch.inference_mode forbids: use torch.no_grad"
                )
            with torch.enable_grad():
                x = x_t.detach().requires_grad_()
                velocity = denoise(x, t)
                destination = x - time * velocity
                error = (target - destination.detach()) * weights
                (correction,) = torch.autograd.grad(destination, x, error)
            velocity, correction = velocity.detach(), correction * self._dimensions
        return velocity - guidance_weight(time, self._how.max_guidance_weight) * correction
