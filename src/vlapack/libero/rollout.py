"""One episode: any callable that turns an observation into an action chunk drives the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vlapack.errors import InputError
from vlapack.libero.clock import Clock, Course, Timing
from vlapack.libero.env import Observation

Film = Callable[[np.ndarray], None]
"""Takes the pictures of both cameras side by side, uint8 [256, 512, 3], one after the other."""

Act = Callable[..., np.ndarray]
"""Observation in openpi's LIBERO keys → action chunk [at least `replan`, 7].

Where the policy is to continue its last chunk, a `clock.Continuation` is the second argument.
"""


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
        steps: actions applied, without the idle ones; those for which the robot held still count.
        timing: how often the policy was asked, and what its latency did.
    """

    success: bool
    steps: int
    timing: Timing


def rollout(
    scene: Scene,
    act: Act,
    init_state: int,
    *,
    replan: int = 5,
    clock: Clock = Clock(),  # noqa: B008  (frozen)
    film: Film | None = None,
    film_every: int = 1,
) -> Episode:
    """Run one episode as openpi's examples/libero/main.py does, or with a clock that goes on while the policy thinks.

    Args:
        scene: the environment.
        act: called with the observation every `replan` steps; with a clock, whenever `clock.Course` asks.
        init_state: index of the official initial state.
        replan: how many actions of a chunk are used before the next one is asked for.
        clock: what the robot does while the policy thinks, and for how long. By default time stands still.
        film: is shown the scene at the start and after every `film_every` steps. What the policy does not look at is
            rendered for the film alone.
        film_every: steps from one picture of the film to the next.

    Raises:
        InputError: a chunk has fewer than `replan` actions, or is not [n, 7] and finite.
    """
    observation = scene.reset(init_state)
    if film is not None:
        film(_both(observation))
    course = Course(clock, replan)
    for step in range(scene.max_steps):
        if course.asks:
            continuation = course.continuation
            chunk = act(observation) if continuation is None else act(observation, continuation)
            course.answer(_checked(chunk, replan))
        action = course.act()
        # The picture after this step is looked at only if it is filmed, or if the policy is asked again then.
        filmed = film is not None and (step + 1) % film_every == 0
        observation, done = scene.step(action, render=filmed or course.asks)
        if film is not None and filmed:
            film(_both(observation))
        if done:
            return Episode(True, step + 1, course.timing)
    return Episode(False, scene.max_steps, course.timing)


def _both(observation: Observation) -> np.ndarray:
    """Return the pictures of both cameras side by side."""
    return np.hstack([observation["observation/image"], observation["observation/wrist_image"]])


def _checked(chunk: np.ndarray, replan: int) -> np.ndarray:
    chunk = np.asarray(chunk)
    if chunk.ndim != 2 or chunk.shape[1] != 7 or len(chunk) < replan:
        raise InputError(
            f"the policy gave a chunk of shape {chunk.shape}; replanning every {replan} needs [≥{replan}, 7]"
        )
    if not np.isfinite(chunk).all():
        raise InputError("the policy gave actions that are NaN or infinite")
    return chunk
