"""The actions that a robot has yet to execute, while the next chunk is being computed.

Chunks are joined by counting the actions that were *really* executed since a chunk's observation was taken, never by
an estimate of the latency: a chunk's row i is the i-th action after its observation. While the robot holds still, it
executes nothing and nothing is skipped.

Only the delay that a policy is told with a request is an estimate, since the answer is not there yet: the longest of
the last few. It decides how firmly the chunk is bound to its predecessor, not where it is joined.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlapack.errors import InputError, WorkError

REMEMBERED = 8
"""The delay that a policy is told is the longest of so many."""

WARMING = 2
"""So many first answers do not count for that: of a first chunk, and of a first one that continues another."""

MOST_DELAYS = 4096
"""Delays of which statistics are made; a chunk every half second fills that in half an hour."""


@dataclass(frozen=True, eq=False)
class Request:
    """What a policy is to be asked: `observation`, and the three arguments of `Policy.infer` beside it."""

    observation: Mapping[str, Any]
    previous: np.ndarray | None
    delay: int
    time: float
    """When the observation was taken, in seconds."""
    taken: int
    """How many actions were executed before."""
    step: int


@dataclass(frozen=True)
class Spread:
    """How some numbers are spread; all 0 of none."""

    p50: float
    """The median."""
    p95: float
    """The 95 % point."""
    max: float
    """The largest."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Describe numbers.

        Args:
            values: as many as there are
        """
        points = np.percentile([*values], (50, 95, 100)) if values else (0.0, 0.0, 0.0)
        return cls(*(float(point) for point in points))


@dataclass(frozen=True)
class Statistics:
    """What happened since the start, or since `AsyncPolicy.reset`."""

    chunks: int
    """Answers that arrived."""
    actions: int
    """Actions that were executed."""
    holds: int
    """Control steps without an action: before the first chunk, and where the last one ran out."""
    drops: int
    """Actions that became older than `max_age` before their turn."""
    late: int
    """Chunks that arrived later than their policy was told: more actions were executed than it was bound to."""
    failures: int
    """Requests that were not answered."""
    recoveries: int
    """How often the policy could be asked again after one, the connection made again."""
    delay_steps: Spread
    """Control steps from an observation to the first one that its chunk could serve, holds included."""
    delay_ms: Spread
    """Milliseconds from an observation to its chunk."""


@dataclass
class _Counts:
    chunks: int = 0
    actions: int = 0
    holds: int = 0
    drops: int = 0
    late: int = 0
    failures: int = 0
    recoveries: int = 0
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_DELAYS))
    ms: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_DELAYS))


class ActionQueue:
    """The rest of the newest chunk, and the request for the next one. It has no clock, no lock and no thread.

    Args:
        max_age: seconds from an observation to the last moment at which an action of its chunk may be executed
        replan: the next chunk is asked for as soon as the next action is this row of its chunk; None: its middle
        max_delay: the longest delay that a policy may be told; None: any

    Raises:
        InputError: no positive number
    """

    def __init__(self, *, max_age: float, replan: int | None = None, max_delay: int | None = None) -> None:
        if not max_age > 0:
            raise InputError(f"max_age is {max_age!r:.100}; it is a number of seconds above 0")
        if replan is not None and replan < 1:
            raise InputError(f"replan is {replan!r:.100}; at least one action of a chunk is executed")
        self._max_age = max_age
        self._replan = replan
        self._bounds = () if max_delay is None else (max_delay,)
        self._recent: deque[int] = deque(maxlen=REMEMBERED)
        self._warming = 0
        self._slowest = 1
        self.clear()

    def clear(self) -> None:
        """Begin an episode: nothing is left, nothing was executed, and the answer under way will not be used."""
        self._rows: np.ndarray | None = None
        self._row = 0
        self._time = 0.0
        self._taken = 0
        self._steps = 0
        self._asked: Request | None = None
        self._counts = _Counts()

    def step(
        self, observation: Mapping[str, Any], now: float, *, ask: bool = True
    ) -> tuple[np.ndarray | None, Request | None]:
        """Do one control step.

        Args:
            observation: taken just now; it is copied if the policy is to be asked about it
            now: seconds, of any clock that does not go back
            ask: whether anybody is there to be asked

        Returns:
            The action to execute, [robot dimensions], or None to hold still; and the request to answer, if it is time
            for one. One is under way at most.
        """
        self._expire(now)
        left = self._left()
        request = None
        if ask and self._asked is None and (not len(left) or self._row >= self._next_at()):
            delay = min(max(self._recent, default=self._slowest), len(left), *self._bounds)
            previous = left.copy() if len(left) else None
            request = Request(deepcopy(dict(observation)), previous, delay, now, self._taken, self._steps)
            self._asked = request
        self._steps += 1
        if not len(left):
            self._counts.holds += 1
            return None, request
        self._row += 1
        self._taken += 1
        self._counts.actions += 1
        return left[0].copy(), request

    def arrived(self, request: Request, actions: Any, now: float) -> None:
        """Take the answer to a request: it replaces what is left, past as many actions as were executed meanwhile.

        Args:
            request: the one that `step` returned; nothing happens if it is not the last one any more
            actions: [horizon, robot dimensions]
            now: as in `step`

        Raises:
            WorkError: no robot should carry them out
        """
        if request is not self._asked:
            return
        chunk = np.array(actions)
        if chunk.ndim != 2 or not len(chunk) or chunk.dtype.kind not in "iuf" or not np.isfinite(chunk).all():
            raise WorkError(
                f"the policy gave {chunk.dtype} of shape {[*chunk.shape]}; actions are [horizon, robot dimensions], "
                "finite everywhere"
            )
        self._asked = None
        passed, steps = self._taken - request.taken, self._steps - request.step
        self._count_delay(steps, 1000 * (now - request.time))
        self._counts.late += request.previous is not None and passed > request.delay
        self._rows, self._row, self._time = chunk, passed, request.time

    def failed(self, request: Request) -> None:
        """Take it that a request will not be answered; what is left stays."""
        if request is self._asked:
            self._asked = None
        self._counts.failures += 1

    def recovered(self) -> None:
        """Take it that the policy can be asked again; its first answers are slow again."""
        self._warming = 0
        self._counts.recoveries += 1

    def statistics(self) -> Statistics:
        """Return what happened since `clear`."""
        counts = vars(self._counts)
        numbers = {name: value for name, value in counts.items() if isinstance(value, int)}
        return Statistics(**numbers, delay_steps=Spread.of(counts["steps"]), delay_ms=Spread.of(counts["ms"]))

    def _left(self) -> np.ndarray:
        return np.empty((0, 0)) if self._rows is None else self._rows[self._row :]

    def _next_at(self) -> int:
        rows = 0 if self._rows is None else len(self._rows)
        return max(rows // 2, 1) if self._replan is None else self._replan

    def _expire(self, now: float) -> None:
        if now - self._time > self._max_age:
            self._counts.drops += len(self._left())
            self._rows = None

    def _count_delay(self, steps: int, ms: float) -> None:
        self._counts.chunks += 1
        self._counts.steps.append(steps)
        self._counts.ms.append(ms)
        self._warming += 1
        if self._warming > WARMING:
            self._recent.append(max(steps, 1))
        elif not self._recent:
            self._slowest = max(steps, 1)
