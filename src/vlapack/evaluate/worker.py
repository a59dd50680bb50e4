"""The process that holds simulators: it plays one episode at a time and asks the main process for every chunk.

Crash-only: whatever the simulator raises is reported and ends the process, and the main process starts a fresh one.
So an exception, a segmentation fault in the renderer and the kernel's out-of-memory killer are one path, and no
episode runs in a simulator that has failed before.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlapack.errors import InputError
from vlapack.evaluate.clock import CONTROL_HZ
from vlapack.evaluate.plan import Case
from vlapack.files import replaced
from vlapack.libero.clock import Clock, Continuation, Timing
from vlapack.libero.rollout import Film, Scene, rollout

VIDEOS = "videos"
"""The folder of videos, below the output folder."""


class Environment(Scene, Protocol):
    """What a simulator offers; `libero.env.LiberoEnv` does."""

    def close(self) -> None:
        """Free the scene."""
        ...


Factory = Callable[..., Environment]
"""(suite, task id, seed, hard reset) → environment; a module-level function, since it travels to other processes.

Where the target moves, its speed is the keyword argument `drift`, meters a second.
"""


@dataclass(frozen=True, slots=True)
class Job:
    """One episode for a worker.

    Attributes:
        video: the file to write, or None.
        role: who acts, where several do.
        film_every: steps from one picture of the video to the next.
        clock: what the robot does while the policy thinks, and for how long.
        drift: speed of a moving target, meters a second.
    """

    case: Case
    seed: int
    hard_reset: bool
    replan: int
    video: Path | None
    role: str = "policy"
    film_every: int = 1
    clock: Clock = field(default_factory=Clock)
    drift: float = 0.0


@dataclass(frozen=True)
class Observed:
    """Worker → main: the policy is to act on this observation, and to continue its last chunk if there is one here."""

    observation: dict[str, Any]
    continuation: Continuation | None = None


@dataclass(frozen=True)
class Finished:
    """Worker → main: the episode is over; `prompt` is the instruction that the policy was given."""

    success: bool
    steps: int
    seconds: float
    timing: Timing
    prompt: str


@dataclass(frozen=True)
class Refused:
    """Worker → main: no episode can run with this input (no EGL, an unknown task); nothing was lost."""

    message: str


@dataclass(frozen=True)
class Crashed:
    """Worker → main, its last word: the simulator raised."""

    message: str


def steps_a_picture(fps: float) -> int:
    """Return how many steps there are from one picture of a video to the next; it runs in real time.

    Raises:
        InputError: pictures are made after whole steps, so the control frequency is to be a multiple of `fps`.
    """
    steps = round(CONTROL_HZ / fps) if 0 < fps <= CONTROL_HZ else 0
    if steps * fps != CONTROL_HZ:
        raise InputError(
            f"`video_fps={fps:g}`: a video has a picture of every step ({CONTROL_HZ:g} a second), or of every second, "
            "third… of them: give 20, 10, 5, 4, 2 or 1"
        )
    return steps


def libero(suite: str, task_id: int, seed: int, hard_reset: bool, *, drift: float = 0.0) -> Environment:
    """The real simulator."""
    from vlapack.libero.env import LiberoEnv

    return LiberoEnv(suite, task_id, seed=seed, hard_reset=hard_reset, drift=drift)


def serve(connection: Connection, factory: Factory) -> None:
    """Play the jobs that come in until the other side closes the connection.

    The environment of the last task is kept: building a scene costs seconds. Run as a spawned process.
    """
    # Ctrl-C reaches every process of the terminal; the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("MUJOCO_GL", "egl")  # before anything imports mujoco
    environment: Environment | None = None
    held: tuple[str, int, bool, float] | None = None
    try:
        while True:
            job: Job = connection.recv()
            wanted = (job.case.suite, job.case.task_id, job.hard_reset, job.drift)
            if environment is None or held != wanted:
                if environment is not None:
                    environment.close()
                moving = {"drift": job.drift} if job.drift else {}  # other simulators need not know it
                environment = factory(job.case.suite, job.case.task_id, job.seed, job.hard_reset, **moving)
                held = wanted
            connection.send(_play(connection, environment, job))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the main process is done, or gone
    except InputError as error:
        connection.send(Refused(str(error)))
    except Exception as error:
        connection.send(Crashed(f"{type(error).__name__}: {error}"))
        raise
    finally:
        connection.close()


def _play(connection: Connection, environment: Environment, job: Job) -> Finished:
    def act(observation: dict[str, Any], continuation: Continuation | None = None) -> np.ndarray:
        connection.send(Observed(observation, continuation))
        actions: np.ndarray = connection.recv()
        return actions

    start = time.monotonic()
    with ExitStack() as stack:
        film = None if job.video is None else stack.enter_context(filming(job.video, CONTROL_HZ / job.film_every))
        episode = rollout(
            environment,
            act,
            job.case.init_state,
            replan=job.replan,
            clock=job.clock,
            film=film,
            film_every=job.film_every,
        )
    return Finished(episode.success, episode.steps, time.monotonic() - start, episode.timing, environment.prompt)


@contextmanager
def filming(path: Path, fps: float) -> Iterator[Film]:
    """Yield what takes the frames of an H.264 video; a file of this name is a whole video, never a part.

    Frames are encoded as they come, in a process of ffmpeg's: an episode in raw pictures takes 100 to 200 MB.
    """
    import imageio_ffmpeg

    path.parent.mkdir(parents=True, exist_ok=True)
    writer: Any = None

    def film(frame: np.ndarray) -> None:
        nonlocal writer
        if writer is None:
            height, width, _ = frame.shape
            writer = imageio_ffmpeg.write_frames(str(partial), (width, height), fps=fps, ffmpeg_log_level="error")
            writer.send(None)
        writer.send(np.ascontiguousarray(frame))

    def close() -> None:
        if writer is not None:
            writer.close()

    # ffmpeg chooses the container by the name's ending.
    with replaced(path, draft=f".{path.name}.partial.mp4") as partial:
        try:
            yield film
        except BaseException:
            close()
            partial.unlink(missing_ok=True)
            raise
        close()
