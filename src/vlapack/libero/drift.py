"""A moving target: the object that a task picks up drifts over the table, so that time matters.

LIBERO's scenes stand still until the robot touches them, so a chunk that comes late still fits the scene. Here the
object moves at a constant speed, as if on a conveyor belt, in a straight line through its start. The line's direction
follows from the seed, the task and the init state. The object begins to move after the policy's first observation.

**How it moves.** After every 2 ms of physics the position of the object's free joint is shifted, and its velocity is
left alone. Friction acts on velocities, so it does not brake the object; what the object meets pushes back. It is
carried while it is no higher than where it stood and the gripper does not hold it.

**Where it turns round.** As far from its start as the official init states of its task are from each other: the longer
side of the box that they fill (3 cm in libero_spatial). So it stays within that distance of a place where a policy may
have seen it, and the instruction stays true. The box itself is too small: the fingers' tolerance is as large.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

from vlapack.errors import InputError
from vlapack.libero.held import held
from vlapack.libero.suites import Task, import_libero, load_task, num_tasks

FASTEST = 0.5
"""Meters a second: a millimeter in one time step of the physics. The collision geometry is a few thick."""

LIFTED = 0.005
"""Meters above where it stood, from which on the object is not carried; on the plate a bowl stands higher than that."""

SUPPORTS = ("coffee_table", "floor", "kitchen_table", "living_room_table", "main_table", "study_table")
"""What LIBERO's arenas call the surface below everything."""


def check_drift(speed: float) -> None:
    """Refuse what is no speed of a target.

    Raises:
        InputError: it is negative, not finite, or faster than the physics can follow.
    """
    if not 0 <= speed <= FASTEST:
        raise InputError(f"`drift={speed:g}`: meters a second, from 0 (the target stands still) to {FASTEST:g}")


def described(speed: float) -> str:
    """Say in one line what moves."""
    return f"moving target: the object to pick up drifts at {speed:g} m/s"


def drifting(task: Task) -> str | None:
    """Return which object of a task can drift; None: there is none.

    It is the first that the goal puts somewhere, if it stands on the table, or on the floor, when an episode begins.
    """
    import_libero()
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    scene = robosuite_parse_problem(str(task.bddl_file))
    below = {entry[1]: entry[2] for entry in scene["initial_state"] if entry[0] == "on"}
    movable = {name for names in scene["objects"].values() for name in names}
    for predicate, name, *_ in scene["goal_state"]:
        place = scene["regions"].get(below.get(name))
        if predicate in ("on", "in") and name in movable and place is not None and place["target"] in SUPPORTS:
            return str(name)
    return None


def require_drifting(tasks: Iterable[tuple[str, int]]) -> None:
    """Refuse tasks in which nothing can drift.

    Args:
        tasks: (suite, index) pairs.

    Raises:
        InputError: it names the first such task, and those of its suite in which something can.
    """
    for suite, index in tasks:
        task = load_task(suite, index)
        if drifting(task) is None:
            raise cannot_drift(task)


def cannot_drift(task: Task) -> InputError:
    """Return the error that says why nothing can drift in a task, and in which of its suite something can."""
    able = [str(one) for one in range(num_tasks(task.suite)) if drifting(load_task(task.suite, one)) is not None]
    return InputError(
        f"`drift` moves the object that a task picks up, and in {task.suite} task {task.index} ({task.prompt!r}) none "
        f"stands on the table or the floor at the start; it does in `task_ids={','.join(able)}`"
    )


class Drift:
    """The belt below one object of a simulator.

    Args:
        task: the task.
        sim_env: its environment of robosuite.
        speed: meters a second.

    Attributes:
        name: the object.
        reach: meters from its start to where it turns round.

    Raises:
        InputError: as `check_drift` and `require_drifting`.
    """

    def __init__(self, task: Task, sim_env: Any, speed: float) -> None:
        check_drift(speed)
        if (name := drifting(task)) is None:
            raise cannot_drift(task)
        self.name, self.reach = name, 0.0
        self._task, self._sim_env, self._speed = task, sim_env, speed
        self._toward = self._home = (0.0, 0.0)
        self._lifted = -math.inf
        self._carries = False

    def attach(self, sim: Any) -> None:
        """Move the object after each time step of a simulator from now on, between `start` and `stop`."""
        first, _ = sim.model.get_joint_qpos_addr(self._sim_env.get_object(self.name).joints[0])
        official = self._task.init_states[:, 1 + first : 3 + first]  # after the time
        self.reach = float((official.max(axis=0) - official.min(axis=0)).max())
        self._pose = sim.data._data.qpos[first : first + 3]  # a view
        self._way = self._speed * float(sim.model.opt.timestep)
        step: Callable[[], None] = sim.step

        def step_and_carry() -> None:
            step()
            if self._carries:
                self._carry()

        sim.step = step_and_carry
        self.stop()

    def stop(self) -> None:
        """Let the object stand still."""
        self._carries, self._lifted = False, -math.inf

    def start(self, episode: str) -> None:
        """Begin to move the object from where it stands; the direction depends on the episode's name alone."""
        angle = math.tau * int.from_bytes(hashlib.sha256(episode.encode()).digest()[:8], "big") / 2**64
        self._toward = math.cos(angle), math.sin(angle)
        x, y, height = self._pose.tolist()
        self._home, self._lifted = (x, y), height + LIFTED

    def look(self) -> None:
        """Decide before a control step whether the gripper leaves the object to the belt."""
        self._carries = self._lifted > -math.inf and not held(self._sim_env, self.name)

    def _carry(self) -> None:
        x, y, height = self._pose.tolist()
        if height > self._lifted:
            return
        (east, north), (home_x, home_y) = self._toward, self._home
        if (x - home_x) * east + (y - home_y) * north > self.reach:
            east, north = self._toward = -east, -north
        self._pose[0], self._pose[1] = x + self._way * east, y + self._way * north
