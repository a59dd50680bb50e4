"""One LIBERO task as openpi evaluates it, without the work whose result nobody looks at.

openpi's protocol (examples/libero/main.py): reset, put the official initial state, ten idle steps, then act;
pictures are turned by 180 degrees, the state is end-effector position, axis-angle and the two finger joints.

Four savings, each with a test that compares it with the slow way, to the last bit:

* *lazy rendering*: a picture costs 100-200 ms in software, so the cameras are rendered only on steps whose
  picture is asked for. The observable stays enabled and returns a blank otherwise, so that the simulator's
  bookkeeping does not change.
* *soft reset*: the scene is reset in place instead of being built again (0.3 s instead of 3-8 s).
* *sight*: what a camera cannot see is not drawn (`sight.py`).
* *physics*: robosuite computes positions and velocities three times a time step (`physics.py`).

Fixture poses (cabinet, stove) do not come from the initial state but from numpy's *global* generator at reset, so
it is seeded again before every reset: an episode depends on its own seed only, not on the episodes before it.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vlapack.errors import InputError
from vlapack.libero.drift import Drift
from vlapack.libero.physics import Physics
from vlapack.libero.sight import Sight
from vlapack.libero.suites import OPENPIS_MUJOCO, import_libero, load_task, mujoco_version

CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
RESOLUTION = 256
IDLE_STEPS = 10
IDLE_ACTION = np.array([0.0] * 6 + [-1.0])

Observation = dict[str, Any]


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """Turn a unit quaternion [x, y, z, w] into axis · angle [3], radians, as robosuite and openpi do."""
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = math.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3]) * 2.0 * math.acos(w) / sine


class LiberoEnv:
    """One task in a simulator of its own.

    Args:
        suite: `libero_spatial`, `libero_object`, `libero_goal`, `libero_10` or `libero_90`.
        task_id: index of the task in its suite.
        seed: seeds numpy's global generator before every reset (fixture poses); openpi uses 7.
        hard_reset: build the scene again for every episode, as openpi does; slower, and not needed.
        drift: meters a second at which the object that is picked up moves over the table (`drift.py`); 0: it stands.
        lazy: render only when `step(render=True)` asks, draw only what is seen, compute nothing twice. False does all
            of it, as openpi does.

    Attributes:
        sight: what each camera sees, for code that draws pictures of its own.

    Raises:
        InputError: unknown suite or task, LIBERO missing, no way to render without a screen, or nothing that can drift.
    """

    def __init__(
        self,
        suite: str,
        task_id: int,
        *,
        seed: int = 7,
        hard_reset: bool = False,
        drift: float = 0.0,
        lazy: bool = True,
    ) -> None:
        self.task = load_task(suite, task_id)
        self.prompt = self.task.prompt
        self.max_steps = self.task.max_steps
        self._seed = seed
        self._hard_reset = hard_reset
        self._lazy = lazy
        self._render = False
        self._physics: Physics | None = None
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._env = import_libero().envs.OffScreenRenderEnv(
                    bddl_file_name=str(self.task.bddl_file), camera_heights=RESOLUTION, camera_widths=RESOLUTION
                )
        except (ImportError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"the simulator cannot render without a screen ({type(error).__name__}: {error}); on Debian or Ubuntu: "
                "`apt-get install libegl1 libgl1 libgles2`, and MUJOCO_GL=egl (or osmesa with libosmesa6)"
            ) from error
        if self.sim_env.sim._render_context_offscreen.vopt.geomgroup[0]:
            raise InputError(
                f"MuJoCo {mujoco_version()} renders the collision meshes, which LIBERO hides (2.3.7's binding is at "
                f"fault); no policy has seen such pictures. Install mujoco=={OPENPIS_MUJOCO}, as openpi evaluates"
            )
        self.sim_env.hard_reset = hard_reset
        self._drift = Drift(self.task, self.sim_env, drift) if drift else None
        self._save_work()

    @property
    def sim_env(self) -> Any:
        """The robosuite environment under LIBERO's wrapper, for code that reads poses or contacts."""
        return self._env.env

    def reset(self, init_state: int, *, render: bool = True) -> Observation:
        """Put official initial state `init_state`, wait the ten idle steps, return the first observation.

        What drifts begins to.
        """
        states = self.task.init_states
        if not 0 <= init_state < len(states):
            raise InputError(
                f"{self.task.suite} task {self.task.index} has init states 0 to {len(states) - 1}, not {init_state}"
            )
        observation = self.reset_to(states[init_state], render=render)
        if self._drift is not None:
            self._drift.start(f"{self._seed}/{self.task.suite}/{self.task.index}/{init_state}/drift")
        return observation

    def reset_to(self, state: np.ndarray, *, render: bool = True) -> Observation:
        """Put a flattened simulator state [time, positions, velocities] and wait the ten idle steps; nothing drifts."""
        self.use_renderer()
        np.random.seed(self._seed)  # the simulator draws from the global generator
        self._render = False
        if self._drift is not None:
            self._drift.stop()
        if self._hard_reset:
            # LIBERO appends its drawer and knob samplers again with every build, and so draws more and more numbers.
            self.sim_env.object_property_initializers.clear()
        self._env.reset()
        if self._hard_reset:
            self._save_work()  # a hard reset makes a new simulator
        # A soft reset keeps the last finger command of the episode before.
        self.sim_env.robots[0].gripper.current_action = np.zeros_like(self.sim_env.robots[0].gripper.current_action)
        self._env.set_init_state(state)
        for _ in range(IDLE_STEPS - 1):
            self.step(IDLE_ACTION, render=False)
        observation, _ = self.step(IDLE_ACTION, render=render)
        return observation

    def step(self, action: np.ndarray, *, render: bool = True) -> tuple[Observation, bool]:
        """Apply one action [7] (six end-effector deltas, gripper) for 50 ms; return observation and success.

        Without `render` both pictures of the observation are black.
        """
        if render or not self._lazy:
            self.use_renderer()
        self._render = render
        if self._drift is not None:
            self._drift.look()
        with self._physics.stepping() if self._physics is not None else contextlib.nullcontext():
            raw, _, done, _ = self._env.step(np.asarray(action, dtype=np.float64).tolist())
        self._render = False
        return self._observation(raw), bool(done)

    def success(self) -> bool:
        """Whether the task's goal holds now."""
        return bool(self._env.check_success())

    def state(self) -> np.ndarray:
        """Return the simulator's flattened state: time, positions, velocities."""
        return np.asarray(self._env.get_sim_state())

    def use_renderer(self) -> None:
        """Make this scene's graphics context the current one: robosuite renders into whichever was built last."""
        self.sim_env.sim._render_context_offscreen.gl_ctx.make_current()

    def close(self) -> None:
        """Free the scene and its rendering context."""
        self._env.close()

    def _observation(self, raw: Observation) -> Observation:
        return {
            "observation/image": np.ascontiguousarray(raw[CAMERAS[0]][::-1, ::-1]),
            "observation/wrist_image": np.ascontiguousarray(raw[CAMERAS[1]][::-1, ::-1]),
            "observation/state": np.concatenate(
                [raw["robot0_eef_pos"], axis_angle(raw["robot0_eef_quat"]), raw["robot0_gripper_qpos"]]
            ),
            "prompt": self.prompt,
        }

    def _save_work(self) -> None:
        sim = self.sim_env.sim
        self.sight = Sight(sim)
        if self._lazy:
            self._save_physics_and_pictures(sim)
        if self._drift is not None:
            self._drift.attach(sim)

    def _save_physics_and_pictures(self, sim: Any) -> None:
        self._physics = Physics(sim)
        for name in CAMERAS:
            observable = self.sim_env._observables[name]
            if not hasattr(observable._sensor, "lazy"):
                observable._sensor = self._lazily(observable._sensor, name.removesuffix("_image"))

    def _lazily(self, sensor: Callable[[Any], np.ndarray], camera: str) -> Callable[[Any], np.ndarray]:
        blank = np.zeros((RESOLUTION, RESOLUTION, 3), dtype=np.uint8)

        def lazy_sensor(cache: Any) -> np.ndarray:
            if not self._render:
                return blank
            with self.sight.only(camera):
                return sensor(cache)

        lazy_sensor.__modality__ = sensor.__modality__  # type: ignore[attr-defined]  # robosuite reads it
        lazy_sensor.lazy = True  # type: ignore[attr-defined]
        return lazy_sensor
