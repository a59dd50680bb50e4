"""Episodes on this machine: worker processes hold simulators, this process infers for all of them.

One observation at a time, in the order in which they arrive: a policy exists once in memory however many workers
render, and since every episode has its own noise generator, results do not depend on the number of workers. Only where
other machines infer (`servers`) are several observations answered at a time.
"""

from __future__ import annotations

import inspect
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vlapack.console import say
from vlapack.errors import InputError, WorkError
from vlapack.evaluate.clock import Guidance
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.worker import Crashed, Factory, Finished, Job, Observed, Refused, serve
from vlapack.libero.clock import Continuation, Timing
from vlapack.policy.rtc import RealTime

if TYPE_CHECKING:
    from vlapack.evaluate.contender import Acting

ATTEMPTS = 2
"""A case whose simulator fails is tried once more in a fresh process, then recorded as an error."""

FAILURES_IN_A_ROW = 6
"""So many failures without one finished episode mean that the simulator does not work here at all."""

LOOK_AHEAD = 512
"""Jobs among which the next one is chosen. All jobs are never in memory at once."""

SECONDS_TO_END = 5.0

Actor = Callable[..., np.ndarray]
"""observation → actions [≥ replan, 7]; made again for every attempt at an episode, so that its noise starts over.

In mode `rtc`, a `Continuation` is its second argument where there is a chunk to continue.
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one job; `success` is None where `error` says why there is no result.

    Attributes:
        prompt: the instruction that the policy was given.
    """

    job: Job
    success: bool | None
    steps: int
    seconds: float
    infer_ms: tuple[float, ...]
    error: str | None = None
    timing: Timing | None = None
    prompt: str | None = None


def begin_with(policy: Acting, plan: Plan) -> Callable[[Job], Actor]:
    """Return what begins an episode: the policy with a noise generator of the episode's own."""

    def begin(job: Job) -> Actor:
        generator = torch.Generator().manual_seed(plan.noise_seed(job.case, job.role))

        def act(observation: dict[str, Any], continuation: Continuation | None = None) -> np.ndarray:
            return ask(policy, observation, generator, continuation, plan.clock.guidance)

        return act

    return begin


def ask(
    policy: Acting,
    observation: dict[str, Any],
    generator: torch.Generator,
    continuation: Continuation | None = None,
    guidance: Guidance | None = None,
) -> np.ndarray:
    """Return a policy's chunk [horizon, robot dims]; it continues its last one if it is given one."""
    infer: Callable[..., dict[str, Any]] = policy.infer  # `continuation` is for those that take more (`Acting`)
    told = {} if continuation is None else dict(vars(continuation))
    if continuation is not None and guidance is not None:
        told["realtime"] = RealTime(guidance)
    return np.asarray(infer(observation, generator=generator, **told)["actions"])


def require_continuing(policy: Acting, name: str) -> None:
    """Refuse a policy that cannot continue its last chunk.

    Raises:
        InputError: its `infer` takes no `previous`.
    """
    taken = inspect.signature(policy.infer).parameters
    if "previous" not in taken and all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        raise InputError(
            f"{name} cannot continue its last chunk, as `mode='rtc'` asks: its `infer` takes no `previous`; give "
            "`mode='async'`"
        )


class _Worker:
    """One worker process, the job it is on, and what its policy answered so far."""

    def __init__(self, context: SpawnContext, factory: Factory) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, factory), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process closes the pipe
        self.job: Job | None = None
        self.task: str | None = None
        self.last_words: str | None = None
        self.infer_ms: list[float] = []

    def give(self, job: Job, actor: Actor) -> None:
        self.job, self.task, self.actor, self.infer_ms = job, job.case.task, actor, []
        self._send(job)

    def answer(self, asked: Observed) -> None:
        start = time.perf_counter()
        if asked.continuation is None:
            actions = self.actor(asked.observation)
        else:
            actions = self.actor(asked.observation, asked.continuation)
        self.infer_ms.append(round((time.perf_counter() - start) * 1e3, 3))
        self._send(actions)

    def cause_of_death(self) -> str:
        self.process.join(SECONDS_TO_END)
        return self.last_words or f"the simulator's process ended with exit code {self.process.exitcode}"

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(SECONDS_TO_END)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _send(self, message: object) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died: the next `recv` says so
            self.connection.send(message)


def play(
    jobs: Iterable[Job], begin: Callable[[Job], Actor], *, factory: Factory, workers: int, at_once: int = 1
) -> Generator[Outcome, None, None]:
    """Run all jobs and yield each outcome as it comes.

    Args:
        jobs: the episodes; those of one task go to one worker as far as that keeps everyone busy.
        begin: called at the start of every attempt at a job; returns what acts in it.
        factory: makes a simulator, in the worker's process.
        workers: how many processes hold one.
        at_once: how many observations may be answered at the same time, each in a thread of its own.

    Raises:
        InputError: a worker says that no episode can run with this input.
        WorkError: the simulator failed several times in a row without one finished episode.
    """
    crew = _Crew(jobs, begin, factory, workers, at_once)
    try:
        while busy := crew.busy():
            for connection in wait([*busy, crew.alarm]):
                if connection is crew.alarm:
                    raise crew.trouble[0]
                outcome = crew.attend(busy[connection])  # type: ignore[index]  # `wait` returns what it was given
                if outcome is not None:
                    yield outcome
    finally:
        crew.end()


class _Crew:
    """The workers and the jobs they have not been given yet.

    Attributes:
        alarm: can be read as soon as answering an observation in a thread has failed.
        trouble: how it failed.
    """

    def __init__(
        self, jobs: Iterable[Job], begin: Callable[[Job], Actor], factory: Factory, workers: int, at_once: int
    ) -> None:
        # A forked process would inherit torch's locks and GL's contexts: spawn.
        self._context = multiprocessing.get_context("spawn")
        self._coming = iter(jobs)
        self._waiting = list(islice(self._coming, LOOK_AHEAD))
        self._begin = begin
        self._factory = factory
        self._failures: Counter[Job] = Counter()
        self._in_a_row = 0
        self._threads = ThreadPoolExecutor(at_once) if at_once > 1 else None
        self.alarm, self._bell = self._context.Pipe(duplex=False)
        self.trouble: list[Exception] = []
        self._workers = [_Worker(self._context, factory) for _ in range(min(workers, len(self._waiting)))]
        for worker in self._workers:
            self._give_next(worker)

    def busy(self) -> dict[Connection, _Worker]:
        """Workers on a job, by their connections; empty: everything is done."""
        return {worker.connection: worker for worker in self._workers if worker.job is not None}

    def end(self) -> None:
        for worker in self._workers:
            worker.end()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def attend(self, worker: _Worker) -> Outcome | None:
        """Read one message of a busy worker and act on it; return the outcome if it ends a job for good."""
        assert worker.job is not None
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._replace(worker, worker.job)
        match message:
            case Observed() if self._threads is not None:
                self._threads.submit(self._answer, worker, message)
            case Observed():
                worker.answer(message)
            case Crashed(text):
                worker.last_words = text
            case Refused(text):
                raise InputError(text)
            case Finished(success, steps, seconds, timing, prompt):
                chunks = tuple(worker.infer_ms)
                outcome = Outcome(worker.job, success, steps, seconds, chunks, timing=timing, prompt=prompt)
                self._in_a_row = 0
                self._give_next(worker)
                return outcome
        return None

    def _answer(self, worker: _Worker, asked: Observed) -> None:
        """Run in a thread: whatever goes wrong there is raised in `play`."""
        try:
            worker.answer(asked)
        except Exception as error:
            self.trouble.append(error)
            self._bell.send(None)

    def _replace(self, worker: _Worker, job: Job) -> Outcome | None:
        """Put a fresh process in the place of a dead one; its job is tried again, or given up."""
        cause = worker.cause_of_death()
        worker.end()
        self._in_a_row += 1
        if self._in_a_row == FAILURES_IN_A_ROW:
            raise WorkError(
                f"the simulator failed {self._in_a_row} times in a row, the last time with: {cause}; "
                "if memory is short, try `workers=1`"
            )
        self._failures[job] += 1
        again = self._failures[job] < ATTEMPTS
        say(f"{job.case}: {cause}; {'tried again in a fresh process' if again else 'given up'}")
        if again:
            self._waiting.insert(0, job)
        fresh = _Worker(self._context, self._factory)
        self._workers[self._workers.index(worker)] = fresh
        self._give_next(fresh)
        return None if again else Outcome(job, None, 0, 0.0, (), error=cause)

    def _give_next(self, worker: _Worker) -> None:
        """Give a job of the task whose scene the worker has; else of a task nobody is on; else any."""
        worker.job = None
        self._waiting += islice(self._coming, LOOK_AHEAD - len(self._waiting))
        if not self._waiting:
            return
        elsewhere = {other.task for other in self._workers if other is not worker and other.job is not None}

        def cost(job: Job) -> int:
            return 0 if job.case.task == worker.task else 1 if job.case.task not in elsewhere else 2

        job = min(self._waiting, key=cost)
        self._waiting.remove(job)
        worker.give(job, self._begin(job))
