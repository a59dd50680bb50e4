"""The simulator's time steps without what robosuite computes twice.

Every 2 ms robosuite computes positions, velocities and forces before its controller, again in it, and once more in the
step itself. Positions and velocities cannot change in between, so the second and the third time only the forces are
computed. These must be: the solver begins where it ended the last time, and leaving one out would change the last bit.
So the states are the same to the last bit (tests/libero/test_env.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

LARGEST = 1e10
"""Of a position or velocity; beyond it MuJoCo starts the simulation over (mjMAXVAL)."""


class Physics:
    """Takes the place of `forward` and `step` of one simulator.

    Args:
        sim: robosuite's.
    """

    def __init__(self, sim: Any) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model, self._data = sim.model._model, sim.data._data
        self._stepping = self._known = False
        sim.forward, sim.step = self.forward, self.step

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Around a control step: nobody but the simulator moves anything in the block, except right after `step`."""
        self._stepping, self._known = True, False
        try:
            yield
        finally:
            self._stepping = self._known = False

    def forward(self) -> None:
        """Compute what follows from positions, velocities and controls."""
        if self._known:
            self._mujoco.mj_forwardSkip(self._model, self._data, self._mujoco.mjtStage.mjSTAGE_VEL, 0)
        else:
            self._mujoco.mj_forward(self._model, self._data)
            self._known = self._stepping

    def step(self) -> None:
        """Advance by one time step."""
        if self._known and self._sound():
            self._mujoco.mj_step2(self._model, self._data)
        else:
            self._mujoco.mj_step(self._model, self._data)
        self._known = False

    def _sound(self) -> bool:
        """Whether the whole step would not start over; NaN is not."""
        largest = max(np.abs(self._data.qpos).max(), np.abs(self._data.qvel).max())
        return bool(largest <= LARGEST)
