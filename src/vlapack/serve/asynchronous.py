"""A robot that acts while its policy thinks: the loop between them, in process or over the network."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, get_args

import numpy as np

from vlapack.console import say
from vlapack.errors import InputError, WorkError
from vlapack.policy.rtc import RealTime
from vlapack.serve.actions import ActionQueue, Request, Statistics
from vlapack.serve.remote import RemotePolicy

OnLoss = Literal["hold", "stop"]

ANSWER_SECONDS = 60.0
"""After so long without an answer, a server that `AsyncPolicy` has connected to counts as gone."""

RETRY_SECONDS = 0.5
CLOSE_SECONDS = 5.0


class Infers(Protocol):
    """What answers: a `Policy`, a `RemotePolicy`, or a fake in a test.

    One that has `reconnect` is called there after a failure, until it succeeds. One that has `continues`, and there
    False, takes no `previous`. One that has `max_delay` may have been trained to go on from so many actions at most.
    """

    def infer(self, observation: Mapping[str, Any], /) -> dict[str, Any]:
        """Return `{"actions": [horizon, robot dimensions], …}`; with `previous`, as `Policy.infer`."""
        ...


class AsyncPolicy:
    """Gives an action at every control step, while the next chunk is computed in a thread of its own.

        with AsyncPolicy("ws://gpu-box:8000", max_age=3.0) as policy:
            while …:  # the robot's control loop
                action = policy.act(observation)
                if action is not None:  # None: hold still
                    robot.send(action)

    A new chunk is joined by the actions that were really executed since its observation, whatever it took to compute
    it; each action is given out once at most. With real-time chunking the policy is told what is still being executed,
    and continues that. While no answer comes (warm-up, a slow answer, a server that is gone), the actions that are
    there are executed to the end, then the robot holds still.

    Args:
        policy: `Policy`, `RemotePolicy`, or the address of a server (ws://HOST:PORT), which is connected to
        max_age: seconds from an observation to the last moment at which an action that answers it may be executed
        replan: the next chunk is asked for when the next action is this row of its chunk; None: its middle. A chunk
            that takes d control steps needs at least as many rows behind this one
        execution_horizon: as in `Policy.infer`; it is raised to the delay where that is longer
        realtime: how a chunk is continued; None: as the policy does by default
        jump: do not continue chunks: the robot jumps from each to the next
        on_loss: what happens after a failure, when no actions are left. `hold`: the robot holds still until the policy
            answers again; a server is connected to again. `stop`: `act` raises the failure
        clock: seconds; for tests
        retry_s: pause between two attempts after a failure

    Raises:
        InputError: an argument that means nothing, nobody listens at the address, or the server does not continue
            chunks
    """

    def __init__(
        self,
        policy: Infers | str,
        *,
        max_age: float,
        replan: int | None = None,
        execution_horizon: int | None = None,
        realtime: RealTime | None = None,
        jump: bool = False,
        on_loss: OnLoss = "hold",
        clock: Callable[[], float] = time.monotonic,
        retry_s: float = RETRY_SECONDS,
    ) -> None:
        if on_loss not in get_args(OnLoss):
            raise InputError(f"on_loss is {on_loss!r:.100}; it must be one of {', '.join(get_args(OnLoss))}")
        self._max_age = max_age
        self._said_slow = False
        self._opened = isinstance(policy, str)
        self._policy: Any = RemotePolicy(policy, timeout=ANSWER_SECONDS) if isinstance(policy, str) else policy
        if not jump and not getattr(self._policy, "continues", True):
            self._leave()
            raise InputError(
                "this server cannot continue a chunk: serve the policy with `vlapack serve`, or give `jump=True` to "
                "jump from one chunk to the next"
            )
        trained = getattr(self._policy, "max_delay", 0) if realtime is None or realtime.guidance == "trained" else 0
        self._queue = ActionQueue(max_age=max_age, replan=replan, max_delay=trained or None)
        self._jump = jump
        self._realtime = realtime
        self._execution_horizon = execution_horizon
        self._stops = on_loss == "stop"
        self._clock = clock
        self._retry_s = retry_s
        self._changed = threading.Condition()
        self._request: Request | None = None
        self._lost = False
        self._said = ""
        self._error: Exception | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="act", daemon=True)
        self._thread.start()

    def act(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        """Return the action of this control step.

        Args:
            observation: taken just now, in the layout's keys

        Returns:
            [robot dimensions], in the robot's units, to be executed now; None: hold still.

        Raises:
            WorkError: the server is gone or failed, no actions are left, and `on_loss` is `stop`
            InputError: the policy cannot use the observations, and no actions are left
        """
        with self._changed:
            if self._closing.is_set():
                raise InputError("this policy is closed")
            able = not self._lost and self._error is None
            action, request = self._queue.step(observation, self._clock(), ask=able)
            if request is not None:
                self._request = request
                self._changed.notify()
            if action is None and self._error is not None:
                raise self._error
            return action

    def reset(self) -> None:
        """Begin an episode: actions that are left are dropped, and the answer under way will not be used."""
        with self._changed:
            self._queue.clear()
            self._request = None

    @property
    def statistics(self) -> Statistics:
        """What happened since the start, or since `reset`."""
        with self._changed:
            return self._queue.statistics()

    def close(self) -> None:
        """End the thread, and the connection if it was made here."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._leave()  # which also wakes a thread that waits for an answer
        self._thread.join(CLOSE_SECONDS)

    def __enter__(self) -> AsyncPolicy:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _leave(self) -> None:
        if self._opened:
            self._policy.close()

    def _work(self) -> None:
        while (request := self._next()) is not None:
            try:
                answer = self._answer(request)
                with self._changed:
                    self._queue.arrived(request, answer["actions"], now := self._clock())
                self._say_slow(now - request.time)
            except Exception as error:  # whatever it is, the control loop has to know
                if not self._survives(request, error):
                    break
        if self._closing.is_set():  # perhaps it was connected again meanwhile
            self._leave()

    def _next(self) -> Request | None:
        with self._changed:
            self._changed.wait_for(lambda: self._request is not None or self._closing.is_set())
            request, self._request = self._request, None
            return None if self._closing.is_set() else request

    def _answer(self, request: Request) -> dict[str, Any]:
        told: dict[str, Any] = {}
        if not self._jump and request.previous is not None:
            horizon = self._execution_horizon
            told = {
                "previous": request.previous,
                "delay": request.delay,
                "execution_horizon": None if horizon is None else max(horizon, request.delay),
                "realtime": self._realtime,
            }
        answer: dict[str, Any] = self._policy.infer(request.observation, **told)
        return answer

    def _say_slow(self, seconds: float) -> None:
        if seconds > self._max_age and not self._said_slow:
            self._said_slow = True
            say(
                f"warning: an answer took {seconds:.2f} s, and no action is executed that is older than "
                f"max_age={self._max_age:g} s: the robot holds still"
            )

    def _survives(self, request: Request, error: Exception) -> bool:
        """Note a failure; return whether to go on, which is when the policy can be asked again."""
        with self._changed:
            self._queue.failed(request)
            if self._closing.is_set():
                return False
            if self._stops or not isinstance(error, WorkError):
                self._error = error
                return False
            self._lost = True
        if str(error) != self._said:
            self._said = str(error)
            say(f"warning: {error}; the robot goes on with the actions that it has, then holds still")
        while not self._closing.wait(self._retry_s):
            try:
                if hasattr(self._policy, "reconnect"):
                    self._policy.reconnect()
            except WorkError:  # it is still not there
                continue
            except InputError as changed:
                with self._changed:
                    self._error = changed
                return False
            with self._changed:
                self._queue.recovered()
                self._lost = False
            return True
        return False
