"""What our float runtime computes stage by stage, and how far another runtime's answer is from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlapack.doctor.request import Request
from vlapack.pi0.flow import Denoise
from vlapack.policy.policy import Policy

Arrays = Mapping[str, np.ndarray]

# Both sides compute in fp32 and sum in other orders: 3e-6 of the largest number at tiny-libero's sizes.
FLOAT = 1e-4
# From the second step on. LeRobot computes the flow's times in double precision, openpi adds them up in single. Their
# embedding, whose shortest period is 0.004, turns that rounding into 1e-4 of a velocity.
FLOW = 1e-3
# A step of 8 bits is 0.0078.
PICTURE = 0.002
# PIL's filter and torch's are 0.01 apart on the smooth pictures of a request (0.04 where the network sees 28 x 28); a
# stretched picture is by more than 1.
OTHER_FILTER = 0.05
STATE = 1e-4

UNSCALED, RELATIVE = "of a picture's -1 to 1", "of the largest number"
KEPT = {"resize": "resized", "normalized actions": "chunk"}
"""Stages whose arrays have another name."""


@dataclass(frozen=True)
class Stage:
    """One stage of both runtimes.

    Attributes:
        name: what was computed.
        difference: the largest, in the unit of `measure`; None where the two cannot be subtracted.
        tolerance: up to which they count as equal.
        measure: what the difference is relative to.
        cause: what a larger difference comes from, if all stages before are equal.
        note: where it is largest, or why there is none.
    """

    name: str
    difference: float | None
    tolerance: float
    measure: str
    cause: str
    note: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the two are equal here."""
        return self.difference is not None and self.difference <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "ok": self.ok}


@torch.no_grad()
def our_stages(policy: Policy, request: Request) -> dict[str, np.ndarray]:
    """Act once and keep what each stage computed.

    Returns:
        `pictures` and `resized` [cameras that exist, 3, S, S]; `state` [D], normalized; `tokens` [tokens that exist];
        `keys` and `values` [layers, kv heads, P, head_dim]; `velocities` [steps, H, D]; `chunk` [H, D], normalized;
        `actions` [H, robot dimensions].
    """
    inputs, other = policy.observe(request.observation), policy.observe(request.resized)
    velocities: list[Tensor] = []

    def step(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        velocities.append(denoise(x_t, t).clone())
        return velocities[-1]

    prefix = policy.model.embed_prefix(inputs.images, inputs.image_masks, inputs.tokens, inputs.token_masks)
    keys, values = (torch.stack([past.prefix[side][0] for past in prefix.layers]) for side in (0, 1))
    chunk = policy.model.integrate(prefix, inputs.state, request.noise[None], step=step)
    tensors = {
        "pictures": inputs.images[inputs.image_masks],
        "resized": other.images[other.image_masks],
        "state": inputs.state[0],
        "tokens": inputs.tokens[inputs.token_masks],
        "keys": keys,
        "values": values,
        "velocities": torch.cat(velocities),
        "chunk": chunk[0],
    }
    found = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    return {**found, "actions": policy.robot_actions(chunk.numpy(), inputs.robot_state)[0]}


def compare(ours: Arrays, theirs: Arrays, *, resize: float = PICTURE) -> tuple[Stage, ...]:
    """Compare all stages in the order in which they are computed.

    Args:
        ours: as `our_stages` returns them.
        theirs: the same of another runtime.
        resize: how far resized pictures may be apart.
    """
    return (
        _stage("pictures", ours, theirs, PICTURE, UNSCALED, "picture preparation: scale, order of the colors or of the "
               "cameras, a camera that only one of them sees"),
        _stage("resize", ours, theirs, resize, UNSCALED, "resize: pictures of another size are cut, stretched or "
               "padded differently"),
        _state(ours["state"], theirs["state"]),
        _tokens(ours["tokens"], theirs["tokens"]),
        _layers("keys", ours, theirs),
        _layers("values", ours, theirs),
        *_velocities(ours["velocities"], theirs["velocities"]),
        _stage("normalized actions", ours, theirs, FLOW, RELATIVE, "integration: the flow's steps are added up "
               "differently"),
        _actions(ours["actions"], theirs["actions"]),
    )  # fmt: skip


def _stage(name: str, ours: Arrays, theirs: Arrays, tolerance: float, measure: str, cause: str) -> Stage:  # noqa: PLR0917
    a, b = ours[KEPT.get(name, name)], theirs[KEPT.get(name, name)]
    if (problem := _incomparable(a, b)) is not None:
        return Stage(name, None, tolerance, measure, cause, problem)
    scale = 1.0 if measure == UNSCALED else _scale(b)
    return Stage(name, _largest(a - b) / scale, tolerance, measure, cause)


def _state(ours: np.ndarray, theirs: np.ndarray) -> Stage:
    """Compare the normalized states; zeros behind one of them are padding."""
    cause = "normalization: the statistics (`norm_stats`) of the state, or their kind, mean_std or quantile"
    measure = "of the normalized state"
    length = max(len(ours), len(theirs))
    a, b = (np.pad(state, (0, length - len(state))) for state in (ours, theirs))
    if (problem := _incomparable(a, b)) is not None:
        return Stage("state", None, STATE, measure, cause, problem)
    apart = np.abs(a - b) / np.maximum(1, np.abs(b))
    worst = int(apart.argmax())
    note = f"dimension {worst}: ours {a[worst]:.4f}, theirs {b[worst]:.4f}" if apart[worst] > STATE else None
    return Stage("state", float(apart[worst]), STATE, measure, cause, note)


def _tokens(ours: np.ndarray, theirs: np.ndarray) -> Stage:
    """Count the places at which the prompts' tokens differ."""
    length = max(len(ours), len(theirs))
    a, b = (np.pad(tokens.astype(np.int64), (0, length - len(tokens)), constant_values=-1) for tokens in (ours, theirs))
    places = np.flatnonzero(a != b)
    note = None
    if len(places):
        first = places[0]
        note = f"{len(ours)} tokens here, {len(theirs)} there; the first that differs is number {first}: "
        note += f"ours {a[first]}, theirs {b[first]}"
    cause = "tokenizer or prompt: another `tokenizer`, or another text around the instruction (is the state in it?)"
    return Stage("tokens", float(len(places)), 0.0, "tokens that differ", cause, note)


def _layers(name: str, ours: Arrays, theirs: Arrays) -> Stage:
    """Compare keys or values layer by layer: the first that differs tells where to look."""
    shown, measure = f"prefix {name}", "of a layer's largest number"
    cause = "weights of the vision tower, the projector or the language model"
    a, b = ours[name], theirs[name]
    if (problem := _incomparable(a, b)) is not None:
        return Stage(shown, None, FLOAT, measure, cause, problem)
    apart = [_largest(mine - other) / _scale(other) for mine, other in zip(a, b, strict=True)]
    wrong = [layer for layer, difference in enumerate(apart) if difference > FLOAT]
    note = f"first in layer {wrong[0]} of {len(apart)}" if wrong else None
    return Stage(shown, max(apart), FLOAT, measure, cause, note)


def _velocities(ours: np.ndarray, theirs: np.ndarray) -> list[Stage]:
    """Compare the expert's answers step by step."""
    if len(ours) != len(theirs):
        note = f"{len(ours)} denoise steps here, {len(theirs)} there"
        return [Stage("velocities", None, FLOAT, RELATIVE, "another number of denoise steps (num_steps)", note)]
    expert = "weights of the action expert, its projections or its time MLP"
    stages = []
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
        cause, tolerance = (expert, FLOAT) if number == 1 else ("integration: the flow's times or steps", FLOW)
        named = {f"velocity {number}": a}, {f"velocity {number}": b}
        stages.append(_stage(f"velocity {number}", *named, tolerance, RELATIVE, cause))
    return stages


def _actions(ours: np.ndarray, theirs: np.ndarray) -> Stage:
    """Compare the robot's actions, each dimension by its own size."""
    cause = "normalization: the statistics (`norm_stats`) of the actions, or actions that are added to the state"
    measure = "of a dimension's largest action"
    if (problem := _incomparable(ours, theirs)) is not None:
        return Stage("actions", None, FLOW, measure, cause, problem)
    sizes = np.maximum(np.abs(theirs).max(axis=0), FLOW * _scale(theirs))
    apart = np.abs(ours - theirs).max(axis=0) / sizes
    worst = int(apart.argmax())
    note = f"dimension {worst}" if apart[worst] > FLOW else None
    return Stage("actions", float(apart[worst]), FLOW, measure, cause, note)


def _incomparable(ours: np.ndarray, theirs: np.ndarray) -> str | None:
    """Say why two arrays cannot be subtracted; None where they can."""
    if ours.shape != theirs.shape:
        return f"shape {list(ours.shape)} here, {list(theirs.shape)} there"
    for whose, values in (("here", ours), ("there", theirs)):
        if not np.isfinite(values).all():
            return f"not finite {whose}"
    return None


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def _scale(values: np.ndarray) -> float:
    """The largest number, which something is divided by."""
    return max(_largest(values), float(np.finfo(np.float32).tiny))
