"""What does a late chunk cost, and what do real-time chunking and packing change about that? Success against latency.

    python benchmarks/realtime.py [--minutes 150]

The float policy and a pack play the same starts with the same noise, at every point: a mode of the clock
(`libero/clock.py`) and a latency in control steps, with a target that stands still or moves. The points come in the
order in which they matter, and each is played whole before the next one. The pack plays each start right after the
float policy. So a run that is stopped leaves complete pairs, and the same command goes on, on another day and another
machine (`common/episodes.py`).

Episodes are in benchmarks/results/realtime, to be committed after each session; the result is realtime.json beside it,
the table and the picture go into docs/realtime.md.
"""

from __future__ import annotations

import vlapack  # noqa: F401  before torch, whose waiting threads then leave their cores to the simulators

# isort: split
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from closed_loop_large import PARENT, THREADS, make_packs
from common.episodes import BASELINE, Episodes
from common.realtime_curve import RESULT, rows, write_picture, write_tables
from common.results import ROOT, stamp, write_result

from vlapack import open_checkpoint
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, say
from vlapack.evaluate.clock import Guidance
from vlapack.evaluate.contender import Acting, Contender, contender
from vlapack.evaluate.local import Actor, ask, play
from vlapack.evaluate.plan import Plan, choose_replan
from vlapack.evaluate.tasks import choose_tasks, listed_tasks
from vlapack.evaluate.worker import Factory, Job, libero
from vlapack.fingerprint import digest_weights
from vlapack.libero.clock import Clock, Mode, Timing
from vlapack.libero.drift import drifting
from vlapack.libero.suites import load_task, num_tasks, simulator
from vlapack.ops.arithmetic import arithmetic, on_threads
from vlapack.progress import progress

EPISODES = RESULT.with_suffix("")
PACK = "full"
STARTS, MOVING_STARTS = 15, 20
"""Init states of each task: of seven tasks, and of the five whose target can move. A hundred episodes are asked for."""
SMOOTHED = 4
"""Init states of each task where guidances are compared by how far a robot jumps: ten changes of chunks an episode."""
EXECUTED = 9
"""Rows of a chunk that is 4 steps late, until the next one takes over: those behind it need not be bound."""
PAIRED = 4
"""Noise seeds where pack and float are compared: 420 pairs."""
DRIFT = 0.1
"""Meters a second of the moving target (docs/realtime.md says why)."""


@dataclass(frozen=True)
class Point:
    """A place on a curve.

    Attributes:
        mode: what the robot does while the policy thinks.
        latency: control steps.
        drift: meters a second of the target.
        seeds: noise seeds.
        guidance: how a chunk is joined to the last one in mode `rtc`.
        starts: init states of each task.
        execution_horizon: how far a chunk is joined, as in `Policy.infer`; None: the policy's default.
    """

    mode: Mode
    latency: int
    drift: float = 0.0
    seeds: int = 1
    guidance: Guidance = "lerobot"
    starts: int = STARTS
    execution_horizon: int | None = None

    @property
    def name(self) -> str:
        """The folder of its episodes."""
        guided = "" if self.guidance == "lerobot" else f"-{self.guidance}"
        guided += "" if self.execution_horizon is None else f"-{self.execution_horizon}rows"
        return f"{self.mode}-{self.latency}{guided}" + ("-moving" if self.drift else "")


def _points() -> tuple[Point, ...]:
    still: list[tuple[Mode, int]] = [("sync-free", 0), ("rtc", 4), ("async", 4), ("wait", 4)]
    found = [Point(mode, latency) for mode, latency in still[:3]]
    found += [Point("rtc", 4, starts=SMOOTHED, execution_horizon=EXECUTED)]
    found += [Point("rtc", 4, guidance=guidance, starts=SMOOTHED) for guidance in ("vjp", "inpaint")]
    found += [Point(mode, latency, DRIFT, starts=MOVING_STARTS) for mode, latency in still]
    for latency in (8, 2, 0, 10, 14, 3, 1, 5):
        found += [Point(mode, latency) for mode in ("rtc", "async") if latency or mode == "rtc"]
    found += [Point("rtc", latency, seeds=PAIRED) for latency in (4, 0, 2)]
    found += [
        Point(mode, latency, DRIFT, starts=MOVING_STARTS) for latency in (8, 2) for mode in ("rtc", "async", "wait")
    ]
    found += [Point("wait", latency) for latency in (4, 8, 2, 10, 14, 3, 1, 5)]
    return tuple(found)


POINTS = _points()


def main(
    *,
    minutes: float = math.inf,
    points: tuple[str, ...] = (),
    most: int | None = None,
    workers: int = 2,
    out: Path = EPISODES,
    work: Path = ROOT / "outputs" / "closed_loop_large",
) -> int:
    """Play what is missing.

    Args:
        minutes: Stop after so many; the episodes under way are lost.
        points: Only these, such as rtc-4 or async-4-moving. Default: all of them.
        most: At most so many init states of each task, to try something out.
        workers: Simulators at a time.
        out: Folder of the episodes; the result is written beside it.
        work: Folder of the pack.
    """
    end = time.monotonic() + 60 * minutes
    with on_threads(THREADS):
        pack = make_packs(PARENT, None, (PACK,), work)[PACK]
        baseline, metadata = contender(BASELINE, PARENT)
        entries = {BASELINE: baseline, PACK: contender(PACK, str(pack))[0]}
        checkpoint = open_checkpoint(pack)
        build = {
            "arithmetic": arithmetic(),
            "packs": {PACK: digest_weights(checkpoint.names(), checkpoint.read)},
            **{key: stamp()[key] for key in ("commit", "date")},
        }
        tasks = choose_tasks(None, None, listed_tasks(metadata), num_tasks)
        movable = tuple(task for task in tasks if drifting(load_task(*task)) is not None)
        acting = {role: entry.load() for role, entry in entries.items()}
        for point in POINTS:
            if points and point.name not in points:
                continue
            states = range(point.starts if most is None else min(most, point.starts))
            plan = Plan(
                tasks=movable if point.drift else tasks,
                init_states=tuple(states),
                policies={},
                noise_seeds=point.seeds,
                replan=choose_replan(None, metadata),
                drift=point.drift,
            )
            with opened(out / point.name, point, plan, entries, build) as episodes:
                play_point(point, plan, acting, episodes, workers=workers, end=end)
            if time.monotonic() > end:
                say("the time is over; the same command goes on here")
                break
    found = rows(out, {point.name: point for point in POINTS})
    write_result(out.with_suffix(".json"), found, policy=PARENT, horizon=20, control_hz=20)
    if out == EPISODES:
        write_tables()
        write_picture()
    return 0


def opened(
    folder: Path, point: Point, plan: Plan, entries: Mapping[str, Contender], build: Mapping[str, Any]
) -> Episodes:
    """Return the episodes of one point."""
    run = {
        **{f"policy.{key}": value for key, value in entries[BASELINE].identity.items() if key != "name"},
        **{"tasks": plan.tasks, "seed": plan.seed, "replan": plan.replan, "simulator": simulator()},
        **{"mode": point.mode, "latency": point.latency, "drift": point.drift},
        **({} if point.guidance == "lerobot" else {"guidance": point.guidance}),
        **({} if point.execution_horizon is None else {"execution_horizon": point.execution_horizon}),
    }
    return Episodes(folder, run, {role: entry.identity["weights"] for role, entry in entries.items()}, build)


def play_point(
    point: Point,
    plan: Plan,
    acting: Mapping[str, Acting],
    episodes: Episodes,
    *,
    workers: int,
    end: float,
    factory: Factory = libero,
) -> None:
    """Play what one point lacks, until the time is over."""
    clock = Clock(point.mode, point.latency, point.execution_horizon)
    guidance = point.guidance if point.mode == "rtc" else None

    def begin(job: Job) -> Actor:
        generator = torch.Generator().manual_seed(plan.noise_seed(job.case, job.role))
        policy = acting[job.role]
        return lambda observation, continuation=None: ask(policy, observation, generator, continuation, guidance)

    jobs = [
        Job(case, plan.seed, plan.hard_reset, plan.replan, None, role, clock=clock, drift=plan.drift)
        for case in plan.cases()
        for role in episodes.missing(case, list(acting))
    ]
    total = len(acting) * len(plan.cases())
    with (
        progress(point.name, total, done=total - len(jobs)) as advance,
        closing(play(jobs, begin, factory=factory, workers=workers)) as outcomes,
    ):
        for outcome in outcomes:
            job = outcome.job
            if outcome.success is not None and outcome.timing is not None:
                kept = more(outcome.timing, job.case.noise == 0)
                episodes.add(job.role, job.case, success=outcome.success, steps=outcome.steps, more=kept)
            advance(f"{job.role}, {job.case}")
            if time.monotonic() > end:
                return


def more(timing: Timing, jumps: bool) -> tuple[Any, ...]:
    """Return what is kept of the clock: chunks, steps held still, and, if asked for, the jumps in thousandths."""
    kept = [[round(1000 * one) for one in each] for each in (timing.seams, timing.gaps)] if jumps else []
    return timing.chunks, timing.held, *kept


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
