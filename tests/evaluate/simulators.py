"""Simulators whose every outcome is known in advance; workers import this module by its name, so it stays light."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from vlapack.errors import InputError


class Walk:
    """A point on a line: each action moves it, and 3.0 is the goal; the init state is where it starts."""

    max_steps = 30

    def __init__(self, task_id: int) -> None:
        self.prompt = f"walk {task_id}"
        self.position = 0.0

    def reset(self, init_state: int) -> dict[str, object]:
        self.position = 0.1 * init_state
        return self._observe()

    def step(self, action: np.ndarray, *, render: bool = True) -> tuple[dict[str, object], bool]:
        self.position += float(action[0])
        return self._observe(), self.position >= 3.0

    def close(self) -> None:
        pass

    def _observe(self) -> dict[str, object]:
        picture = np.full((32, 32, 3), int(20 * abs(self.position)) % 256, dtype=np.uint8)
        state = np.array([self.position] + [0.0] * 7)
        return {
            "observation/image": picture,
            "observation/wrist_image": picture,
            "observation/state": state,
            "prompt": self.prompt,
        }


def walk(suite: str, task_id: int, seed: int, hard_reset: bool) -> Walk:
    return Walk(task_id)


class Fleeing(Walk):
    """Walks after a goal that moves away by so many meters a step."""

    def __init__(self, task_id: int, drift: float) -> None:
        super().__init__(task_id)
        self.goal, self.drift = 3.0, drift

    def reset(self, init_state: int) -> dict[str, object]:
        self.goal = 3.0
        return super().reset(init_state)

    def step(self, action: np.ndarray, *, render: bool = True) -> tuple[dict[str, object], bool]:
        self.goal += self.drift
        observation, _ = super().step(action, render=render)
        return observation, self.position >= self.goal


def fleeing(suite: str, task_id: int, seed: int, hard_reset: bool, *, drift: float = 0.0) -> Fleeing:
    return Fleeing(task_id, drift)


class Failing(Walk):
    """Init state 1 raises, init state 2 kills its process, as a renderer's segmentation fault would."""

    def reset(self, init_state: int) -> dict[str, object]:
        if init_state == 1:
            raise RuntimeError("the physics exploded")
        if init_state == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(init_state)


def failing(suite: str, task_id: int, seed: int, hard_reset: bool) -> Failing:
    return Failing(task_id)


class FailingOnce(Walk):
    """Dies on init state 1 the first time; the second time a file remembers that it did."""

    def step(self, action: np.ndarray, *, render: bool = True) -> tuple[dict[str, object], bool]:
        mark = Path(os.environ["FAKE_MARK"])
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action, render=render)


def failing_once(suite: str, task_id: int, seed: int, hard_reset: bool) -> FailingOnce:
    return FailingOnce(task_id)


def never(suite: str, task_id: int, seed: int, hard_reset: bool) -> Walk:
    raise OSError("no display at all")


def blind(suite: str, task_id: int, seed: int, hard_reset: bool) -> Walk:
    raise InputError("the simulator cannot render without a screen")


class Slow(Walk):
    """Walks at 0.05 s a step, and leaves its process's number in a folder."""

    def __init__(self, task_id: int) -> None:
        super().__init__(task_id)
        (Path(os.environ["FAKE_PIDS"]) / str(os.getpid())).touch()

    def step(self, action: np.ndarray, *, render: bool = True) -> tuple[dict[str, object], bool]:
        time.sleep(0.05)
        return super().step(action, render=render)


def slow(suite: str, task_id: int, seed: int, hard_reset: bool) -> Slow:
    return Slow(task_id)
