"""What robots show and take, in LeRobot's words: which cameras, how long a state, which actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vlapack.errors import InputError

LayoutName = Literal["libero", "droid", "aloha", "aloha_unadapted", "lerobot"]
CAMERA = "observation.images."


@dataclass(frozen=True)
class Features:
    """LeRobot's `input_features` and `output_features` of a policy.

    Attributes:
        cameras: full names, in the network's order.
        state: dimensions of `observation.state`.
        actions: what each dimension of `action` is called.
    """

    cameras: tuple[str, ...]
    state: int
    actions: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Any) -> Features:
        """Read `to_dict`'s form; anything else is an InputError."""
        match document:
            case {"cameras": [*cameras], "state": int(state), "actions": [*actions], **rest} if (
                not rest
                and cameras
                and actions
                and type(state) is int
                and state > 0
                and all(isinstance(n, str) for n in cameras + actions)
            ):
                return cls(tuple(cameras), state, tuple(actions))
        raise InputError(
            f"policy configuration: features is {document!r:.200}; it must be cameras (names), state (its dimensions) "
            "and actions (names)"
        )


def _joints(*arms: str) -> tuple[str, ...]:
    return tuple(f"{arm}{joint}" for arm in arms for joint in (*(f"joint_{i}" for i in range(6)), "gripper"))


_ALOHA = Features(
    (f"{CAMERA}cam_high", f"{CAMERA}cam_left_wrist", f"{CAMERA}cam_right_wrist"), 14, _joints("left_", "right_")
)

FEATURES: Mapping[str, Features] = {
    "libero": Features((f"{CAMERA}image", f"{CAMERA}image2"), 8, ("x", "y", "z", "rx", "ry", "rz", "gripper")),
    "droid": Features(
        (f"{CAMERA}exterior_1_left", f"{CAMERA}wrist_left"), 8, (*(f"joint_{i}" for i in range(7)), "gripper")
    ),
    "aloha": _ALOHA,
    "aloha_unadapted": _ALOHA,
}
"""Of the layouts that openpi defines. Layout `lerobot` is any other robot: its configuration brings its own."""
