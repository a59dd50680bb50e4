"""One episode: any callable that turns an observation into an action chunk drives the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vlapack.errors import InputError
from vlapack.libero.env import Observation

Act = Callable[[Observation], np.ndarray]
"""Observation in openpi's LIBERO keys → action chunk [at least `replan`, 7]."""


class Scene(Protocol):
    """What a rollout needs of an environment; `LiberoEnv` is one."""

    prompt: str
    max_steps: int

    def reset(self, init_state: int) -> Observation:
        """Start an episode; return the first observation."""

    def step(self, action: np.ndarray, *, render: bool) -> tuple[Observation, bool]:
        """Apply one action; return the observation, with pictures if asked for, and success."""


@dataclass(frozen=True)
class Episode:
    """What happened.

    Attributes:
        success: the task's goal was reached within `max_steps`.
        steps: actions applied, without the idle ones.
        chunks: how often the policy was asked.
        frames: uint8 [256, 512, 3] pictures of both cameras, one a chunk; empty without `video`.
    """

    success: bool
    steps: int
    chunks: int
    frames: list[np.ndarray] = field(default_factory=list, repr=False)


def rollout(scene: Scene, act: Act, init_state: int, *, replan: int = 5, video: bool = False) -> Episode:
    """Run one episode as openpi's examples/libero/main.py does.

    Args:
        scene: the environment.
        act: called with the observation every `replan` steps.
        init_state: index of the official initial state.
        replan: how many actions of a chunk are used before the next one is asked for.
        video: keep the pictures that the policy saw.

    Raises:
        InputError: a chunk has fewer than `replan` actions, or is not [n, 7] and finite.
    """
    observation = scene.reset(init_state)
    frames: list[np.ndarray] = []
    chunks = 0
    for step in range(scene.max_steps):
        if step % replan == 0:
            if video:
                frames.append(np.hstack([observation["observation/image"], observation["observation/wrist_image"]]))
            chunk = _checked(act(observation), replan)
            chunks += 1
        # The picture after this step is looked at only if the policy is asked again then.
        observation, done = scene.step(chunk[step % replan], render=(step + 1) % replan == 0)
        if done:
            return Episode(True, step + 1, chunks, frames)
    return Episode(False, scene.max_steps, chunks, frames)


def _checked(chunk: np.ndarray, replan: int) -> np.ndarray:
    chunk = np.asarray(chunk)
    if chunk.ndim != 2 or chunk.shape[1] != 7 or len(chunk) < replan:
        raise InputError(
            f"the policy gave a chunk of shape {chunk.shape}; replanning every {replan} needs [≥{replan}, 7]"
        )
    if not np.isfinite(chunk).all():
        raise InputError("the policy gave actions that are NaN or infinite")
    return chunk
