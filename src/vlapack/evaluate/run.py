"""The evaluation itself: one policy after another on the episodes of one plan."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlapack.console import say
from vlapack.errors import InputError
from vlapack.evaluate.capacity import require_memory
from vlapack.evaluate.clock import CONTROL_HZ
from vlapack.evaluate.contender import Acting, Contender, require_realtime, require_trained_delay
from vlapack.evaluate.floor import noise_floor
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.local import Outcome, begin_with, play, require_continuing
from vlapack.evaluate.plan import FLOORS, Case, Plan
from vlapack.evaluate.sequential import Stopping
from vlapack.evaluate.sequential_sweep import Until
from vlapack.evaluate.shard import Shard
from vlapack.evaluate.store import Store
from vlapack.evaluate.summary import eval_info, summarize
from vlapack.evaluate.worker import VIDEOS, Factory, Job, libero, steps_a_picture
from vlapack.files import write_json
from vlapack.ops.arithmetic import on_threads
from vlapack.progress import duration


def evaluate(
    plan: Plan,
    contenders: Sequence[Contender],
    out: Path,
    *,
    workers: int = 2,
    videos: bool = True,
    video_fps: float = CONTROL_HZ,
    factory: Factory = libero,
    shard: Shard | None = None,
    ray: str | None = None,
    until: Until | None = None,
) -> dict[str, list[Record]]:
    """Run what `out` does not have yet, and return all records by role.

    Policies run one after another: each is loaded, plays all its episodes, and is freed before the next.

    Args:
        plan: which episodes; its `policies` are those of `contenders`.
        contenders: the policies, in the order in which they run.
        out: the output folder; an interrupted evaluation of the same plan continues there, with the threads of the
            run that began it.
        workers: processes that hold a simulator each; no result depends on it.
        videos: write one video per episode.
        video_fps: pictures a second in a video. Those that no policy looks at are rendered for the video alone.
        factory: makes a simulator; LIBERO's unless another one is brought along (docs/sweeps.md).
        shard: the part of the plan that is played, in a folder of its own below `out`; None: all of it.
        ray: the address of a Ray cluster that plays, "auto" for the one here, "local" to start one; `workers` are then
            those of each process that holds the policy. None: this machine plays.
        until: stops the run; the policies then take turns, round by round.

    Raises:
        InputError: `out` belongs to another plan, too little memory, `video_fps` does not divide the simulator's 20, a
            policy that cannot continue its last chunk in mode `rtc` or so late, or an input no episode can run with.
        WorkError: another run writes to `out`, or the simulator does not work at all.
    """
    if workers < 1:
        raise InputError(f"`workers={workers}`: at least one process must hold a simulator")
    if shard is not None and until is not None:
        raise InputError(f"`shard='{shard}'` plays a fixed part of the plan, and `until_ci` stops it early: give one")
    require_realtime(contenders, plan.clock.mode, plan.clock.guidance)
    require_trained_delay(contenders, plan.clock, plan.replan)
    film_every = steps_a_picture(video_fps)
    folder = out if shard is None else shard.folder(out)
    with Store(folder, plan, shard) as store, on_threads(store.threads):
        how = _How(workers, film_every if videos else None, factory, ray)
        for cases in [store.cases] if until is None else until.rounds():
            playing = [contender for contender in contenders if until is None or until.needs(contender.role)]
            unfinished = [contender for contender in playing if store.missing(contender.role, cases)]
            needed = {contender.name: contender.needed_bytes for contender in unfinished}
            require_memory(needed, workers if ray is None else 0)
            for contender in unfinished:
                _run_one(plan, contender, store, cases, how)
                gc.collect()  # the policy is in a cycle of modules and hooks: free it before the next is loaded
            if until is not None and until.enough(store, cases):
                break
        return {contender.role: store.records(contender.role) for contender in contenders}


def conclude(
    plan: Plan,
    records: Mapping[str, Sequence[Record]],
    out: Path,
    *,
    names: tuple[str, str | None],
    role: str = "policy",
    committed: Mapping[str, Any] | None = None,
    until: Stopping | None = None,
) -> dict[str, Any]:
    """Write `summary.json` and LeRobot's `eval_info.json` files, and return the summary.

    Args:
        plan: what was played.
        records: by role, as `evaluate` returns them; the role "baseline" is what the policy is compared with, and
            what a noise floor is measured against.
        out: the output folder. Another role than "policy" gets a folder of its own in it.
        names: what the user called the policy and its baseline.
        role: whose summary it is.
        committed: a noise floor that was measured before, for a run that plays none.
        until: what stopped the run.
    """
    floor = committed
    for kind in FLOORS.keys() & records.keys():
        floor = noise_floor(records["baseline"], records[kind], kind=FLOORS[kind])
    sequential = None if until is None else until.to_dict()
    summary = summarize(plan, records[role], records.get("baseline"), names=names, floor=floor, sequential=sequential)
    folder = out if role == "policy" else out / role
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "eval_info.json", eval_info(records[role]))
    if "baseline" in records:
        write_json(out / "eval_info_baseline.json", eval_info(records["baseline"]))
    write_json(folder / "summary.json", summary)
    return summary


@dataclass(frozen=True)
class _How:
    """How episodes are played; no result depends on it. Without `film_every` there are no videos."""

    workers: int
    film_every: int | None
    factory: Factory
    ray: str | None


def _run_one(plan: Plan, contender: Contender, store: Store, cases: Sequence[Case], how: _How) -> None:
    missing = store.missing(contender.role, cases)
    total = len(store.cases)
    done = total - len(store.missing(contender.role))
    resumed = f", {done} of {total} already there" if done else ""
    say(f"{contender.role} {contender.name}: loading{resumed}")
    policy = contender.load()
    if plan.clock.mode == "rtc":
        require_continuing(policy, contender.name)

    def video(case: Case) -> Path | None:
        # Absolute: a node of a cluster has another working folder.
        return (store.out / video_path(contender.role, case)).absolute() if how.film_every else None

    every, role = how.film_every or 1, contender.role
    clock = plan.clock.of(role)
    jobs = (
        Job(case, plan.seed, plan.hard_reset, plan.replan, video(case), role, every, clock, plan.drift)
        for case in missing
    )
    if how.ray is None:
        playing = play(
            jobs,
            begin_with(policy, plan),
            factory=how.factory,
            workers=how.workers,
            at_once=min(contender.at_once, how.workers),
        )
    else:
        from vlapack.evaluate.cluster import play_on_ray

        playing = play_on_ray(jobs, policy, plan, address=how.ray, factory=how.factory, workers=how.workers)
    start = time.monotonic()
    with closing(playing) as outcomes:  # workers end whatever happens
        for number, outcome in enumerate(outcomes, 1):
            record = _record(contender.role, outcome, policy, timed=not plan.clock.stands_still)
            store.append(record)
            left = (time.monotonic() - start) / number * (len(missing) - number)
            say(f"[{done + number}/{total}] {contender.role}: {_line(record)}; about {duration(left)} left")


def video_path(role: str, case: Case) -> Path:
    """Where the video of an episode lies below the output folder; the policy's own stand at the top."""
    folder = Path(VIDEOS) if role == "policy" else Path(VIDEOS) / role
    noise = f"_noise_{case.noise}" if case.noise else ""
    return folder / case.task / f"eval_episode_{case.init_state}{noise}.mp4"


def _record(role: str, outcome: Outcome, policy: Acting, *, timed: bool) -> Record:
    case = outcome.job.case
    video = outcome.job.video if outcome.error is None else None
    return Record(
        role=role,
        suite=case.suite,
        task_id=case.task_id,
        init_state=case.init_state,
        success=outcome.success,
        steps=outcome.steps,
        infer_ms=outcome.infer_ms,
        seconds=round(outcome.seconds, 3),
        held_bytes=policy.held_bytes(),
        mapped_bytes=policy.mapped_bytes(),
        video=str(video_path(role, case)) if video else None,
        error=outcome.error,
        noise=case.noise,
        timing=outcome.timing if timed else None,
        prompt=outcome.prompt,
    )


def _line(record: Record) -> str:
    if record.error is not None:
        return f"{record.case}: simulator error ({record.error}); no result"
    held = "" if record.timing is None else f", held still for {record.timing.held}"
    return f"{record.case}: {'success' if record.success else 'failure'} after {record.steps} steps{held}"
