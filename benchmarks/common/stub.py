"""Simulators that take no time, or as much as is wanted. Their processes import this module, so it stays light."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


class Stub:
    """A scene that takes no time: the first action decides whether it is a success."""

    prompt = "do nothing"
    max_steps = 5

    def reset(self, init_state: int) -> dict[str, Any]:
        return seen(0.0)

    def step(self, action: np.ndarray, *, render: bool = True) -> tuple[dict[str, Any], bool]:
        return seen(0.0), bool(action[0] > 0)

    def close(self) -> None:
        """Nothing is held."""


class Walk:
    """A point on a line, at 0.02 s a step: each action moves it, and 3.0 is the goal."""

    prompt = "walk"
    max_steps = 16

    def reset(self, init_state: int) -> dict[str, Any]:
        self.position = 0.3 * init_state
        return seen(self.position)

    def step(self, action: np.ndarray, *, render: bool = True) -> tuple[dict[str, Any], bool]:
        time.sleep(0.02)
        self.position += float(action[0])
        return seen(self.position), self.position >= 3.0

    def close(self) -> None:
        """Nothing is held."""


def seen(position: float) -> dict[str, Any]:
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    state = np.full(8, position)
    return {"observation/image": picture, "observation/wrist_image": picture, "observation/state": state}


def stub(suite: str, task_id: int, seed: int, hard_reset: bool) -> Stub:
    return Stub()


def walk(suite: str, task_id: int, seed: int, hard_reset: bool) -> Walk:
    return Walk()
