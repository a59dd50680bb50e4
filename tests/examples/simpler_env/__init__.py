"""A stand-in for SIMPLER with its interface: a point that has to reach 3.0, and a picture of it."""

from __future__ import annotations

from typing import Any

import numpy as np


class Environment:
    robot_uid = "widowx"

    def __init__(self, task: str) -> None:
        self.task = task
        self.position = 0.0

    def reset(self, *, seed: int, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        self.position = 0.1 * options["obj_init_options"]["episode_id"]
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.position += float(action[0])
        success = self.position >= 3.0
        return self._seen(), float(success), success, False, {}

    def get_language_instruction(self) -> str:
        return self.task.replace("_", " ")

    def close(self) -> None:
        pass

    def _seen(self) -> dict[str, Any]:
        picture = np.full((48, 64, 3), int(50 * abs(self.position)) % 256, dtype=np.uint8)
        return {"image": {"3rd_view_camera": {"rgb": picture}}, "agent": {"eef_pos": np.full(8, self.position)}}


def make(task: str) -> Environment:
    return Environment(task)
