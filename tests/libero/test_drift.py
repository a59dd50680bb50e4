"""The course of a moving target: on a simulator made of arrays, and (marked) in LIBERO itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vlapack.errors import InputError
from vlapack.libero import drift as drift_module
from vlapack.libero.drift import FASTEST, LIFTED, Drift, check_drift, drifting, require_drifting
from vlapack.libero.env import LiberoEnv
from vlapack.libero.expert import Expert
from vlapack.libero.suites import load_task

FIRST, SECONDS = 9, 0.002
"""Where the pose stands among the positions, and a time step."""


class Scene:
    """A bowl that stands still by itself; its official init states are 3 cm apart in x and 2 cm in y."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
        self.held = False
        monkeypatch.setattr(drift_module, "held", lambda sim_env, name: self.held)
        monkeypatch.setattr(drift_module, "drifting", lambda task: "bowl_1")
        states = np.zeros((2, 40))
        states[1, 1 + FIRST : 3 + FIRST] = 0.03, 0.02
        self.qpos = np.zeros(20)
        self.qpos[FIRST : FIRST + 3] = 0.01, 0.2, 0.9
        self.steps = 0
        self.sim = SimpleNamespace(
            model=SimpleNamespace(
                get_joint_qpos_addr=lambda joint: (FIRST, FIRST + 7), opt=SimpleNamespace(timestep=SECONDS)
            ),
            data=SimpleNamespace(_data=SimpleNamespace(qpos=self.qpos)),
            step=self._step,
        )
        task: Any = SimpleNamespace(init_states=states, suite="s", index=0)
        sim_env = SimpleNamespace(get_object=lambda name: SimpleNamespace(joints=[f"{name}_joint0"]))
        self.drift = Drift(task, sim_env, speed)
        self.drift.attach(self.sim)

    def _step(self) -> None:
        self.steps += 1

    @property
    def pose(self) -> np.ndarray:
        return self.qpos[FIRST : FIRST + 3].copy()

    def control_step(self) -> None:
        self.drift.look()
        for _ in range(25):
            self.sim.step()


def test_it_moves_at_a_constant_speed_from_where_it_stands_and_turns_round(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 0.1)
    assert scene.drift.reach == pytest.approx(0.03)
    home = scene.pose
    scene.drift.start("episode")
    away = []
    for _ in range(60):
        before = scene.pose
        scene.control_step()
        moved = np.linalg.norm(scene.pose - before)
        away.append(float((scene.pose - home)[:2] @ np.array(scene.drift._toward)))
        assert moved <= 0.1 * 0.05 + 1e-12
    assert np.abs(away).max() <= 0.03 + 0.1 * SECONDS + 1e-12
    assert np.abs(away).max() > 0.025
    assert scene.steps == 60 * 25
    assert np.count_nonzero(scene.qpos) == 3


def test_it_stands_still_before_the_start_in_the_hand_above_the_table_and_after_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch, 0.1)

    def moves() -> bool:
        before = scene.pose
        scene.control_step()
        return bool((scene.pose != before).any())

    assert not moves()
    scene.drift.start("episode")
    assert moves()
    scene.held = True
    assert not moves()
    scene.held = False
    assert moves()
    scene.qpos[FIRST + 2] += 2 * LIFTED
    assert not moves()
    scene.qpos[FIRST + 2] -= 2 * LIFTED
    assert moves()
    scene.drift.stop()
    assert not moves()


def test_what_was_pushed_away_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 0.1)
    home = scene.pose
    scene.drift.start("episode")
    scene.qpos[FIRST : FIRST + 2] += 0.2 * np.array(scene.drift._toward)
    for _ in range(40):
        scene.control_step()
    assert np.linalg.norm(scene.pose - home) <= 0.03 + 1e-3


def test_the_direction_follows_from_the_episode_and_differs_between_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = []
    for name in [f"7/s/0/{state}/drift" for state in range(200)] * 2:
        scene = Scene(monkeypatch, 0.1)
        scene.drift.start(name)
        angles.append(math.atan2(*scene.drift._toward))
    assert angles[:200] == angles[200:]
    quarters = np.histogram(angles[:200], bins=4, range=(-math.pi, math.pi))[0]
    assert quarters.min() > 30


@pytest.mark.parametrize("speed", [-0.01, math.nan, math.inf, 2 * FASTEST])
def test_what_is_no_speed_is_refused(speed: float) -> None:
    with pytest.raises(InputError, match=rf"`drift={speed:g}`: meters a second, from 0 .* to 0.5"):
        check_drift(speed)


@pytest.mark.simulator
def test_what_stands_on_something_else_cannot_drift() -> None:
    able = {index for index in range(10) if drifting(load_task("libero_spatial", index)) == "akita_black_bowl_1"}
    assert able == {0, 1, 2, 6, 8}
    assert all(drifting(load_task("libero_object", index)) is not None for index in range(10))
    assert drifting(load_task("libero_goal", 7)) is None  # turn on the stove
    require_drifting([("libero_spatial", 0), ("libero_object", 3)])
    with pytest.raises(InputError, match=r"libero_spatial task 4 .*; it does in `task_ids=0,1,2,6,8`"):
        require_drifting([("libero_spatial", 0), ("libero_spatial", 4)])


@pytest.fixture(scope="module")
def moving() -> Iterator[LiberoEnv]:
    env = LiberoEnv("libero_spatial", 2, drift=0.05)
    yield env
    env.close()


def course(env: LiberoEnv, *, standing: bool = False) -> np.ndarray:
    """The states of 40 steps, with the arm driven into the table now and then."""
    rng, states = np.random.default_rng(3), []
    if standing:
        env.reset_to(env.task.init_states[1], render=False)
    else:
        env.reset(1, render=False)
    for _ in range(40):
        env.step(rng.uniform(-1, 1, 7) - [0, 0, 0.6, 0, 0, 0, 0], render=False)
        states.append(env.state())
    return np.array(states)


@pytest.mark.slow
@pytest.mark.simulator
def test_the_same_episode_has_the_same_course_to_the_last_bit_in_any_simulator(moving: LiberoEnv) -> None:
    first = course(moving)
    moving.reset(0, render=False)
    np.testing.assert_array_equal(course(moving), first)
    fresh = LiberoEnv("libero_spatial", 2, drift=0.05, hard_reset=True, lazy=False)  # and without our savings
    np.testing.assert_allclose(course(fresh), first, rtol=0, atol=1e-12)
    fresh.close()


@pytest.mark.simulator
def test_without_drift_an_episode_is_what_it_was_to_the_last_bit(moving: LiberoEnv) -> None:
    plain = LiberoEnv("libero_spatial", 2)
    assert plain.sim_env.sim.step == plain._physics.step
    still = course(plain)
    np.testing.assert_array_equal(course(moving, standing=True), still)
    assert (course(moving) != still).any()
    plain.close()


@pytest.mark.simulator
def test_friction_does_not_brake_it_and_the_expert_catches_it(moving: LiberoEnv) -> None:
    moving.reset(0, render=False)
    expert = Expert(moving)
    home, positions = expert.position(expert.object), []
    for _ in range(10):
        moving.step(np.zeros(7), render=False)
        positions.append(expert.position(expert.object))
    assert 0.013 < np.linalg.norm(positions[5] - home) < 0.05 * 6 * 0.05 + 1e-3
    assert np.linalg.norm(np.array(positions) - home, axis=1).max() < 0.032
    done = False
    for _ in range(150):
        _, done = moving.step(expert(), render=False)
        if done:
            break
    assert done
