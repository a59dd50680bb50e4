"""Lazy rendering, soft reset, sight and physics change nothing: compared with the slow way, episode after episode."""

import numpy as np
import pytest

from vlapack.errors import InputError
from vlapack.libero.env import RESOLUTION, LiberoEnv, axis_angle
from vlapack.libero.expert import Expert
from vlapack.libero.sight import HIDDEN
from vlapack.libero.suites import MAX_STEPS, load_task

pytestmark = pytest.mark.simulator

TASKS = [(suite, task) for suite in MAX_STEPS for task in (0, 9)]


def play(env: LiberoEnv, init_state: int, *, render_all: bool):
    """The observation after the idle steps and the one after 50 random actions, with the simulator's state."""
    rng = np.random.default_rng(5)
    first = env.reset(init_state)
    for step in range(50):
        last, _ = env.step(rng.uniform(-1, 1, 7), render=render_all or step == 49)
    return first, last, env.state()


def assert_fast_equals_slow(suite: str, task: int) -> None:
    fast, slow = LiberoEnv(suite, task), LiberoEnv(suite, task, hard_reset=True, lazy=False)
    try:
        play(fast, 1, render_all=False)  # so that the soft reset has an episode to forget
        for quick, full in zip(play(fast, 0, render_all=False), play(slow, 0, render_all=True), strict=True):
            if isinstance(quick, np.ndarray):
                np.testing.assert_allclose(quick, full, rtol=0, atol=1e-12)
                continue
            for key in ("observation/image", "observation/wrist_image"):
                assert quick[key].any()
                assert np.count_nonzero(quick[key] != full[key]) == 0, f"{key} differs"
            np.testing.assert_allclose(quick["observation/state"], full["observation/state"], rtol=0, atol=1e-12)
    finally:
        fast.close()
        slow.close()


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "task"), TASKS)
def test_fast_episode_equals_slow_episode_everywhere(suite: str, task: int):
    assert_fast_equals_slow(suite, task)


def test_states_are_to_the_last_bit_those_of_robosuites_own_steps():
    """With contacts: the arm is driven into the table, and the gripper opens and closes."""
    env = LiberoEnv("libero_spatial", 7)

    def course() -> np.ndarray:
        rng, states = np.random.default_rng(3), []
        env.reset(2)
        for _ in range(60):
            action = rng.uniform(-1, 1, 7) - [0, 0, 0.6, 0, 0, 0, 0]
            observation, _ = env.step(action, render=False)
            states.append(np.concatenate([env.state(), env.sim_env.sim.data.qacc, observation["observation/state"]]))
        return np.array(states)

    course()  # so that both have an episode to forget
    ours = course()
    sim = env.sim_env.sim
    del sim.forward, sim.step
    np.testing.assert_array_equal(ours, course())
    env.close()


def test_what_is_not_drawn_is_in_no_pixel():
    """While the wrist's camera comes down, and the stove's top, a mirror, leaves its picture."""
    env = LiberoEnv("libero_spatial", 0)
    import mujoco  # not before the simulator

    env.reset(3)
    expert, sim, mirrors = Expert(env), env.sim_env.sim, set()

    def draw(camera: str) -> np.ndarray:
        return sim.render(camera_name=camera, width=RESOLUTION, height=RESOLUTION)

    for step in range(49):
        env.step(expert(), render=False)
        if step % 8:
            continue
        for camera in ("agentview", "robot0_eye_in_hand"):
            whole = draw(camera)
            with env.sight.only(camera):
                mirrors.add(bool(sim._render_context_offscreen.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION]))
                assert (sim.model.geom_group == HIDDEN).any()
                np.testing.assert_array_equal(draw(camera), whole)
            np.testing.assert_array_equal(draw(camera), whole)
    assert mirrors == {True, False}
    env.close()


def test_two_scenes_in_one_process_each_see_their_own():
    first = LiberoEnv("libero_spatial", 7)
    alone = first.reset(0)
    second = LiberoEnv("libero_object", 6)
    second.reset(0)
    again = first.reset(0)
    for camera in ("observation/image", "observation/wrist_image"):
        np.testing.assert_array_equal(again[camera], alone[camera])
    first.close()
    second.close()


def test_axis_angle_agrees_with_scipy():
    from scipy.spatial.transform import Rotation

    quaternions = np.vstack([Rotation.random(20, random_state=0).as_quat(), [[0, 0, 0, 1.0]], [[1, 0, 0, 1e-9]]])
    for quaternion in quaternions:
        ours, theirs = axis_angle(quaternion), Rotation.from_quat(quaternion)
        np.testing.assert_allclose(Rotation.from_rotvec(ours).as_matrix(), theirs.as_matrix(), atol=1e-7)


def test_unknown_suite_names_the_five():
    with pytest.raises(InputError, match="libero_spatial"):
        load_task("libero_special", 0)


def test_task_outside_the_suite_names_the_range():
    with pytest.raises(InputError, match="0 to 9, not 10"):
        load_task("libero_goal", 10)


def test_scenes_come_with_fifty_official_init_states():
    assert load_task("libero_spatial", 0).init_states.shape[0] == 50
