"""Time that goes on while the policy thinks: which action the robot carries out at each control step.

A pure state machine: it counts control steps, and knows neither a simulator nor a policy. The latency is a whole number
of steps, so an episode takes the same course every time, and nothing really waits.

The policy is asked on an observation, and its chunk arrives `latency` steps later. What happens until then is the mode:

* `sync-free`: time stands still while the policy thinks, as in openpi's and LeRobot's evaluations. The latency is 0.
* `wait`: the robot holds still.
* `async`: the robot carries out the rest of the old chunk, and then jumps into the new one, past as many of its actions
  as were carried out meanwhile.
* `rtc`: as `async`, but the policy is given the rest of the old chunk, and continues it (real-time chunking; Black,
  Galliker, Levine, arXiv 2506.07339).

The policy is asked again when the next action is number `replan` of its chunk, counted from the observation, or as soon
as a chunk has arrived if the latency is longer than that: the paper's s = max(`replan`, latency). One request is under
way at a time. A robot without an action holds still: until the first chunk of an episode has arrived, and in every mode
where the old chunk runs out, which is where the latency exceeds the chunk's length minus s.

Holding is right for actions that are differences of the pose, as LIBERO's are: no motion, and the gripper's last
command once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vlapack.errors import InputError
from vlapack.libero.env import IDLE_ACTION

Mode = Literal["sync-free", "wait", "async", "rtc"]
MODES: tuple[Mode, ...] = get_args(Mode)

POSE = 6
"""The first so many numbers of an action move the arm; the rest command the gripper."""


@dataclass(frozen=True)
class Clock:
    """How time goes on in an episode.

    Attributes:
        mode: what the robot does while the policy thinks.
        latency: control steps from an observation to the chunk that answers it.
        execution_horizon: in mode `rtc`, what the policy is told; None: the policy's default.

    Raises:
        InputError: settings that do not go together.
    """

    mode: Mode = "sync-free"
    latency: int = 0
    execution_horizon: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that do not go together."""
        if self.mode not in MODES:
            raise InputError(f"`mode={self.mode!r}` is not one of {', '.join(MODES)}")
        if self.latency < 0:
            raise InputError(f"a latency of {self.latency} control steps: it cannot be negative")
        if self.mode == "sync-free" and self.latency:
            raise InputError(
                f"a latency of {self.latency} control steps, but in `mode='sync-free'` time stands still while the "
                "policy thinks: give `mode='wait'`, `mode='async'` or `mode='rtc'`"
            )
        if self.execution_horizon is None:
            return
        if self.mode != "rtc":
            raise InputError(
                f"`execution_horizon={self.execution_horizon}` is for `mode='rtc'`, and the mode is {self.mode}"
            )
        if self.execution_horizon < max(self.latency, 1):
            raise InputError(
                f"`execution_horizon={self.execution_horizon}` is below the latency of {self.latency} control steps; "
                f"give at least {max(self.latency, 1)}"
            )


@dataclass(frozen=True, eq=False)
class Continuation:
    """What a policy that continues its last chunk is told besides the observation (`Policy.infer`).

    Attributes:
        previous: [n, 7], the actions of the last chunk that were not carried out yet when the observation was taken;
            the first is the one that is carried out next.
        delay: how many of them will have been carried out when the new chunk arrives.
        execution_horizon: as in `Clock`.
    """

    previous: np.ndarray
    delay: int
    execution_horizon: int | None


@dataclass(frozen=True, slots=True)
class Timing:
    """What time did to an episode.

    Attributes:
        chunks: how often the policy was asked.
        held: control steps for which the robot held still.
        ran_out: those of them for which it did because the old chunk had run out, in modes `async` and `rtc`.
        seams: per change of chunks, the Euclidean distance in the six pose numbers of an action from the last action
            carried out to the new chunk's first.
        gaps: the same from the action that the old chunk had next; changes at which it had none left are not listed.
    """

    chunks: int
    held: int
    ran_out: int
    seams: tuple[float, ...]
    gaps: tuple[float, ...]


class Course:
    """Decides control step by control step what the robot does in one episode.

    In each step: if `asks`, the policy is asked (`continuation` is for it) and `answer` is given the chunk. Then `act`
    is the step's action.

    Args:
        clock: how time goes on.
        replan: how many actions of a chunk are carried out, counted from its observation, before the next is asked for.
    """

    def __init__(self, clock: Clock, replan: int) -> None:
        self._clock, self._replan = clock, replan
        self._chunk = self._coming = np.empty((0, len(IDLE_ACTION)))
        self._row = self._coming_row = 0
        self._left: int | None = None  # steps until the chunk that was asked for arrives
        self._last: np.ndarray = IDLE_ACTION
        self._begun = False  # whether a chunk has arrived
        self._changed = False  # whether the next action is a chunk's first, and not the episode's first
        self._planned: np.ndarray | None = None
        self._chunks = self._held = self._ran_out = 0
        self._seams: list[float] = []
        self._gaps: list[float] = []

    @property
    def asks(self) -> bool:
        """Whether the policy is asked on the observation before the next action."""
        return self._left is None and self._row >= min(self._replan, len(self._chunk))

    @property
    def continuation(self) -> Continuation | None:
        """What the policy is told if it is asked now; None: the observation alone."""
        if self._clock.mode != "rtc" or not self._rest:
            return None
        return Continuation(self._chunk[self._row :], self._delay, self._clock.execution_horizon)

    @property
    def timing(self) -> Timing:
        """What time has done so far."""
        return Timing(self._chunks, self._held, self._ran_out, tuple(self._seams), tuple(self._gaps))

    def answer(self, chunk: np.ndarray) -> None:
        """Take the answer to the observation of now, float [n, 7]; it arrives after the latency."""
        self._chunks += 1
        self._coming, self._coming_row, self._left = chunk, self._delay, self._clock.latency
        self._arrive()

    def act(self) -> np.ndarray:
        """Return the action [7] of this control step, which is over then."""
        thinking = self._left is not None
        if self._row == len(self._chunk) or (thinking and self._clock.mode == "wait"):
            self._held += 1
            self._ran_out += self._begun and self._clock.mode != "wait"
            action = np.concatenate([np.zeros(POSE), self._last[POSE:]])
        else:
            action = self._chunk[self._row]
            self._row += 1
            self._note(action)
        self._last = action
        if self._left is not None:
            self._left -= 1
            self._arrive()
        return action

    @property
    def _rest(self) -> int:
        """How many actions of the chunk can be carried out while the policy thinks."""
        return 0 if self._clock.mode == "wait" else len(self._chunk) - self._row

    @property
    def _delay(self) -> int:
        """How many of them will be: the new chunk's first so many are then in the past."""
        return min(self._clock.latency, self._rest)

    def _arrive(self) -> None:
        """Change to the chunk that was asked for if it is there now."""
        if self._left != 0:
            return
        self._changed = self._begun
        self._planned = self._chunk[self._row] if self._row < len(self._chunk) else None
        self._chunk, self._row = self._coming, min(self._coming_row, len(self._coming))
        self._left, self._begun = None, True

    def _note(self, action: np.ndarray) -> None:
        """Measure the seam if this is a chunk's first action."""
        if not self._changed:
            return
        self._changed = False
        self._seams.append(_distance(action, self._last))
        if self._planned is not None:
            self._gaps.append(_distance(action, self._planned))


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return round(float(np.linalg.norm(one[:POSE] - other[:POSE])), 4)
