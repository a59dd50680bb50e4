"""A scripted pick-and-place expert that reads the simulator's poses.

It has no memory: the action is a function of the scene as it is now, so it can take over from any state that
another policy brought about (DAgger, Ross et al. 2011) and labels a disturbed trajectory with clean actions.

Approach and transport are *funnels*: the farther the gripper is from its target in the plane, the higher above the
target it aims. One rule thus gives lifting, moving over and descending, smoothly, without phases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlapack.errors import InputError
from vlapack.libero.env import LiberoEnv
from vlapack.libero.held import held

POSITION_STEP = 0.05  # metres of one full-scale action (robosuite's OSC_POSE)
ROTATION_STEP = 0.5  # radians of one full-scale action
GRIPPER_OPEN, GRIPPER_CLOSE = -1.0, 1.0


@dataclass(frozen=True)
class Grasp:
    """Where to hold an object, relative to its body frame's origin, in world axes and metres.

    Attributes:
        offset: horizontal displacement [x, y] of the grasp point: zero for things held across, the rim for a bowl. Its
            mirror image is taken where something is in the hand's way on that side.
        height: grip site above the object's origin when the fingers close.
    """

    offset: tuple[float, float]
    height: float


# By the name that LIBERO gives the category. A bowl (9 cm wide, the fingers open 8 cm) is held by its rim.
GRASPS = {
    "akita_black_bowl": Grasp((0.0, -0.047), 0.043),
    "alphabet_soup": Grasp((0.0, 0.0), 0.02),
    "tomato_sauce": Grasp((0.0, 0.0), 0.02),
    "cream_cheese": Grasp((0.0, 0.0), 0.004),
    "butter": Grasp((0.0, 0.0), 0.004),
    "chocolate_pudding": Grasp((0.0, 0.0), 0.004),
}


@dataclass(frozen=True)
class Place:
    """Where an object goes, relative to the target's origin.

    Attributes:
        height: grip site above the target's origin when the fingers open.
        clearance: how much higher than that to travel.
    """

    height: float
    clearance: float


PLACES = {"plate": Place(0.053, 0.10), "basket": Place(0.14, 0.12)}


CABINET = "wooden_cabinet_1"
CABINET_REACH = (0.2, 0.24)  # from its origin [x, y], metres: its walls and a hand's width
CABINET_LEVEL = 1.045  # an object that lies higher than this is on the cabinet
CABINET_TRAVEL = 1.205  # height of the grip at which a held bowl passes over it
NEIGHBOUR = 0.16  # something as near as this is in the way of the hand
BESIDE = 0.055  # if it lies as far as this on the grasp's side


class Expert:
    """Pick-and-place for the tasks whose goal is one `On` or `In` of an object that GRASPS knows.

    Raises:
        InputError: the task's goal, object or target is none that this expert can serve.
    """

    def __init__(self, env: LiberoEnv) -> None:
        self._sim_env = env.sim_env
        goals = self._sim_env.parsed_problem["goal_state"]
        if len(goals) != 1 or goals[0][0] not in ("on", "in"):
            raise InputError(f"{env.task.suite} task {env.task.index}: the goal {goals} is no single pick-and-place")
        _, self.object, region = goals[0]
        self.target = region.removesuffix("_contain_region")
        self._grasp = _lookup(GRASPS, self.object)
        self._place = _lookup(PLACES, self.target)
        # The fingers are to open along the world's y axis, pointing down: the gripper's attitude when upright.
        self._attitude = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])

    def position(self, name: str) -> np.ndarray:
        """World position [3] of an object's origin, metres."""
        return np.array(self._sim_env.sim.data.body_xpos[self._sim_env.obj_body_id[name]])

    def grip(self) -> np.ndarray:
        """World position [3] of the point between the fingertips."""
        return np.array(self._sim_env.sim.data.site_xpos[self._sim_env.robots[0].eef_site_id])

    def holding(self) -> bool:
        """Whether both fingers touch the object."""
        return held(self._sim_env, self.object)

    def __call__(self) -> np.ndarray:
        """Return the action [7] for the scene as it is now."""
        return self._carry() if self.holding() else self._approach()

    def _approach(self) -> np.ndarray:
        grip, item = self.grip(), self.position(self.object)
        target = item + np.array([*self._offset(item), self._grasp.height])
        plane = float(np.linalg.norm(target[:2] - grip[:2]))
        depth = grip[2] - target[2]
        if plane < 0.010 and depth < 0.008:
            return self._act(target, GRIPPER_CLOSE)
        hover = 0.09 * float(np.clip((plane - 0.006) / 0.04, 0.0, 1.0))
        # Too low and off to the side: rise before going there, so that nothing is swept off the table.
        slow = float(np.clip((depth + 0.02) / 0.05, 0.0, 1.0)) if plane > 0.03 else 1.0
        return self._act(target + np.array([0.0, 0.0, hover]), GRIPPER_OPEN, slow=slow)

    def _carry(self) -> np.ndarray:
        grip, item, goal = self.grip(), self.position(self.object), self.position(self.target)
        shift = goal[:2] - item[:2]  # what the object still has to move; the grip moves as much
        plane = float(np.linalg.norm(shift))
        release = goal[2] + self._place.height
        if plane < 0.018 and grip[2] < release + 0.010:
            return self._act(grip, GRIPPER_OPEN)
        lift = self._place.clearance * float(np.clip((plane - 0.015) / 0.06, 0.0, 1.0))
        height = CABINET_TRAVEL if self._at_cabinet(item) and item[2] > CABINET_LEVEL else release + lift
        target = np.array([*(grip[:2] + shift), height])
        slow = float(np.clip(1.0 - (target[2] - 0.02 - grip[2]) / 0.08, 0.05, 1.0))
        return self._act(target, GRIPPER_CLOSE, slow=slow)

    def _at_cabinet(self, position: np.ndarray) -> bool:
        if CABINET not in self._sim_env.fixtures_dict:
            return False
        away = np.abs(position[:2] - self.position(CABINET)[:2])
        return bool((away < CABINET_REACH).all())

    def _offset(self, item: np.ndarray) -> np.ndarray:
        """Where to hold an object at `item` [3]: its grasp's offset [2], mirrored if that side is obstructed."""
        offset = np.array(self._grasp.offset)
        reach = float(np.linalg.norm(offset))
        others = [self.position(name) - item for name in self._sim_env.objects_dict if name != self.object]
        crowded = any(np.linalg.norm(away[:2]) < NEIGHBOUR and away[:2] @ offset > BESIDE * reach for away in others)
        return -offset if crowded or self._at_cabinet(item) else offset

    def _act(self, target: np.ndarray, gripper: float, *, slow: float = 1.0) -> np.ndarray:
        """Proportional control to a grip position [3]; `slow` scales the horizontal part."""
        move = np.clip((target - self.grip()) / POSITION_STEP * 2.0, -1.0, 1.0)
        move[:2] *= slow
        turn = np.clip(self._attitude_error() / ROTATION_STEP, -0.3, 0.3)
        return np.array([*move, *turn, gripper])

    def _attitude_error(self) -> np.ndarray:
        """Small-angle rotation [3], world axes, from the gripper's attitude to the upright one."""
        matrix = np.array(self._sim_env.sim.data.site_xmat[self._sim_env.robots[0].eef_site_id]).reshape(3, 3)
        return np.asarray(0.5 * np.cross(matrix.T, self._attitude.T).sum(axis=0))


def _lookup(table: dict[str, Any], name: str) -> Any:
    category = name.rsplit("_", 1)[0]
    if category not in table:
        raise InputError(f"the expert cannot handle {category!r}; it knows {', '.join(table)}")
    return table[category]
