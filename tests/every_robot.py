"""Small policies of every layout, and where their parts lie in data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lerobot_folder import write_lerobot
from small import small_policy

from vlapack.checkpoints.configs import ALOHA_DELTA, DROID_DELTA
from vlapack.checkpoints.features import Features
from vlapack.checkpoints.policy_config import PolicyConfig


@dataclass(frozen=True)
class Robot:
    """A policy's configuration, and the features of a data set for it: cameras in the layout's order, then vectors."""

    config: PolicyConfig
    cameras: tuple[str, ...]
    vectors: Mapping[str, int]

    def write_dataset(self, root: Path, **form: Any) -> Path:
        return write_lerobot(root, **({"cameras": self.cameras, "vectors": self.vectors, "dtype": "image"} | form))


def _images(*names: str) -> tuple[str, ...]:
    return tuple(f"observation.images.{name}" for name in names)


_ARM = Features(_images("front", "side", "wrist"), 6, tuple(f"joint_{index}" for index in range(6)))
_CAM = _images("cam_high", "cam_left_wrist", "cam_right_wrist")
_ALOHA = small_policy(layout="aloha", delta_mask=ALOHA_DELTA, default_prompt="uncap the pen")

ROBOTS = {
    "libero": Robot(small_policy(), ("image", "wrist_image"), {"state": 8}),
    "droid": Robot(
        small_policy(layout="droid", delta_mask=DROID_DELTA),
        ("exterior_image_1_left", "wrist_image_left"),
        {"joint_position": 7, "gripper_position": 1},
    ),
    "aloha": Robot(_ALOHA, _CAM, {"observation.state": 14}),
    "aloha_unadapted": Robot(
        small_policy(layout="aloha_unadapted"), _images("top"), {"observation.state": 14}
    ),  # openpi's pi0_aloha_sim
    "lerobot": Robot(small_policy(layout="lerobot", robot=_ARM), _ARM.cameras, {"observation.state": 6}),
}
LEROBOTS_DROID = (
    (*_images("exterior_1_left", "wrist_left"),),
    {
        "observation.state.joint_position": 7,
        "observation.state.gripper_position": 1,
    },
)
