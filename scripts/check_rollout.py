"""Let LeRobot's own real-time loop, `lerobot-rollout --inference.type=rtc`, drive a robot that is none by a pack.

    PYTHONPATH=src:plugins/lerobot_policy_vlapack/src lerobot-env/bin/python scripts/check_rollout.py PACK \\
        [--inference.rtc.execution_horizon=10 …]

Flags behind the pack go to LeRobot. The robot has the pack's cameras, and joints that are at once where they were sent.
The last line of the output says what it was sent, and what LeRobot asked the policy.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot
from lerobot.scripts.lerobot_rollout import rollout
from lerobot_policy_vlapack import VlapackPolicy

from vlapack import open_checkpoint

FPS, SECONDS = 20, 6


@RobotConfig.register_subclass("nowhere")
@dataclass(kw_only=True)
class NowhereConfig(RobotConfig):
    """A robot with a pack's cameras, state and actions."""

    pack: str = ""


class Nowhere(Robot):
    """Its joints are at once where they were sent."""

    config_class = NowhereConfig
    name = "nowhere"
    sent: ClassVar[list[np.ndarray]] = []
    times: ClassVar[list[float]] = []

    def __init__(self, config: NowhereConfig) -> None:
        super().__init__(config)
        features = open_checkpoint(config.pack).config.features
        self.cameras = [name.removeprefix("observation.images.") for name in features.cameras]
        count = max(features.state, len(features.actions))
        self.joints = dict.fromkeys((f"joint{number}.pos" for number in range(count)), 0.0)
        self.state, self.actions = [*self.joints][: features.state], [*self.joints][: len(features.actions)]
        self.draw = np.random.default_rng(0)
        self._connected = False

    @property
    def observation_features(self) -> dict[str, Any]:
        return dict.fromkeys(self.state, float) | dict.fromkeys(self.cameras, (224, 224, 3))

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(self.actions, float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True

    def disconnect(self) -> None:
        self._connected = False

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def get_observation(self) -> dict[str, Any]:
        pictures = {name: self.draw.integers(0, 256, (224, 224, 3), dtype=np.uint8) for name in self.cameras}
        return {name: self.joints[name] for name in self.state} | pictures

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        self.joints |= {name: float(value) for name, value in action.items()}
        self.sent.append(np.array([float(action[name]) for name in self.actions]))
        self.times.append(time.perf_counter())
        return action


def main(pack: Path, *flags: str) -> None:
    asked: list[dict[str, Any]] = []
    plain = VlapackPolicy.predict_action_chunk

    def predict_action_chunk(self: Any, batch: Any, noise: Any = None, **told: Any) -> torch.Tensor:
        chunk = plain(self, batch, noise, **told)
        tail = told.get("prev_chunk_left_over")
        known = None if tail is None else int(tail.ne(0).any(dim=-1).sum())
        # How far the actions that will have been executed are from those that are being executed.
        bound = 0 if known is None else min(told["inference_delay"], known)
        apart = float((chunk[0, :bound] - tail[:bound]).abs().max()) if bound else 0.0
        asked.append({"left": known, "delay": told.get("inference_delay"), "apart": apart})
        return chunk

    VlapackPolicy.predict_action_chunk = predict_action_chunk
    sys.argv = [
        sys.argv[0],
        f"--policy.path={pack}",
        "--robot.type=nowhere",
        f"--robot.pack={pack}",
        "--inference.type=rtc",
        "--task=do something",
        f"--fps={FPS}",
        f"--duration={SECONDS}",
        "--return_to_initial_position=false",
        *flags,
    ]
    rollout()
    sent, continued = Nowhere.sent, [one for one in asked if one["left"]]
    print(
        json.dumps(
            {
                "sent": len(sent),
                "seconds": round(Nowhere.times[-1] - Nowhere.times[0], 1),
                "finite": bool(np.isfinite(sent).all()),
                "chunks": len(asked),
                "continued": len(continued),
                "longest_delay": max(one["delay"] for one in asked),
                "apart": max((one["apart"] for one in continued), default=None),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
