"""`vlapack eval`: a policy and its float parent on the same LIBERO episodes, with intervals and a paired test."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from vlapack.commands.results import show_results
from vlapack.commands.shared_flags import Flat, PlayFlags, PolicyFlags
from vlapack.console import emit_json, say
from vlapack.errors import InputError

if TYPE_CHECKING:
    import torch

    from vlapack.evaluate.ledger import Record
    from vlapack.evaluate.plan import Plan
    from vlapack.evaluate.shard import Shard


@dataclass(frozen=True)
class ClockFlags:
    """Whether time goes on while the policy thinks; nothing really waits.

    Args:
        mode: What the robot does while the policy thinks. sync-free: time stands still, as in openpi's evaluation.
            wait: hold still (no motion, the gripper's last command). async: execute the rest of the old chunk, then
            jump into the new one. rtc: async, with a policy that continues the old chunk (real-time chunking). It also
            holds still before an episode's first chunk and when the old chunk has run out.
        latency: Time from an observation to its chunk: 80ms (rounded up to whole control steps), 4steps, or measured
            (each policy's own, measured once on this machine before the run and stored in plan.json).
        control_hz: Control steps a second, to turn milliseconds into steps. A LIBERO step moves the robot by 1/20 s at
            any rate.
        execution_horizon: With --mode rtc, how many actions of a new chunk are bound to the old one. Default: the
            policy's.
        guidance: With --mode rtc, how the policy continues a chunk (docs/realtime.md): as LeRobot does, the paper's
            vector-Jacobian product, prefix inpainting without gradients, or as the policy was trained to. Default:
            trained for a policy that was trained to continue chunks, lerobot for others.
    """

    mode: Literal["sync-free", "wait", "async", "rtc"] = "sync-free"
    latency: str | None = None
    control_hz: float = 20.0
    execution_horizon: int | None = None
    guidance: Literal["lerobot", "vjp", "inpaint", "trained"] | None = None


def eval(
    policy: tyro.conf.Positional[str],
    *,
    baseline: str | None = None,
    suite: str | None = None,
    task_ids: str | None = None,
    trials: int | None = None,
    init_states: str | None = None,
    noise_seeds: int = 1,
    noise_floor: bool = False,
    bf16_floor: bool = False,
    seed: int = 7,
    replan: int | None = None,
    hard_reset: bool = False,
    drift: float = 0.0,
    until_ci: float | None = None,
    out: Path | None = None,
    json: bool = False,
    clock: Flat[ClockFlags] = ClockFlags(),
    playing: Flat[PlayFlags] = PlayFlags(),  # noqa: B008  (frozen)
    flags: Flat[PolicyFlags] = PolicyFlags(),  # noqa: B008  (frozen)
) -> int:
    """Play LIBERO episodes with a policy, and the same episodes with a baseline.

    Both get the same init states, simulator seeds and flow noise, so that outcomes are compared in pairs (exact McNemar
    test). OUT receives episodes.jsonl, videos/, eval_info.json (LeRobot's form) and summary.json. After Ctrl-C or a
    kill, the same command with the same --out plays only the episodes that are missing.

        vlapack eval PACK --baseline tiny-libero --trials 20 --out outputs/eval/full
        vlapack eval PACK --baseline tiny-libero --trials 20 --noise-seeds 5 --noise-floor
        vlapack eval PACK --baseline CHECKPOINT --config pi05_libero --suite libero_spatial --task-ids 0,3,7
        vlapack eval PACK --baseline CHECKPOINT --suite libero_10 --trials 50 --noise-seeds 4 --until-ci 0.03
        vlapack eval PACK --baseline CHECKPOINT --suite libero_10 --shard 3/8 --out DIR; vlapack merge DIR
        vlapack eval PACK --baseline tiny-libero --trials 20 --mode async --latency 80ms
        vlapack eval PACK --suite libero_spatial --task-ids 0-2 --drift 0.1 --mode async --latency measured
        vlapack eval ws://HOST:8000,ws://OTHER:8000 --suite libero_goal --workers 4      (policies of `vlapack serve`)

    Args:
        policy: A pack, a checkpoint folder, tiny-libero, or the address of a policy server (ws://HOST:PORT; its key is
            read from VLAPACK_API_KEY), or several comma-separated addresses that serve the same policy.
        baseline: The float parent to compare with, a folder or tiny-libero; without it the policy plays alone.
        suite: libero_spatial, libero_object, libero_goal, libero_10, libero_90, or several with commas. Default:
            the suites that the policy says it was trained for.
        task_ids: Ids and ranges within the suite, such as 0,3,6-7. Default: the tasks that the policy says it was
            trained for, else all of the suite.
        trials: Episodes per task, from the official init states 0 to trials-1. Default: 10.
        init_states: The init states themselves, such as 0-4,10, instead of --trials.
        noise_seeds: How often to play each start, each time with different flow noise, to get more episodes than there
            are init states.
        noise_floor: Play the baseline's episodes once more with different flow noise. How often it disagrees with
            itself is printed next to the drop. Without this flag, the floor that comes with the policy is printed, if
            there is one.
        bf16_floor: Play them with the same noise, but in bfloat16, to show what rounding alone changes. Slow on CPUs
            without bfloat16 instructions.
        seed: Root of the simulator's seed and of every episode's flow noise.
        replan: Actions to execute from each chunk before requesting the next one. Default: what the policy says
            (LeRobot's n_action_steps), else openpi's 5.
        hard_reset: Rebuild the scene for every episode, as openpi does; slower.
        drift: Make the object to pick up a moving target: its speed over the table in meters a second, such as 0.1
            (docs/realtime.md). Only for tasks in which it stands on the table or the floor. Default: it stands still.
        until_ci: Stop as soon as the 95 % interval of the difference (without a baseline: of the success rate) is this
            narrow on each side, such as 0.03 for 3 points. The interval holds whenever the run stops; --trials and
            --noise-seeds set the maximum number of episodes.
        out: Output folder. Default: outputs/eval/<date>/<time>_<policy>.
        json: Write summary.json to stdout instead of a table.
        clock: Whether time goes on while the policy thinks.
        playing: How the episodes are played.
        flags: What the checkpoint does not say, and how the policy computes.
    """
    from vlapack.evaluate.clock import choose_latency
    from vlapack.evaluate.conclusions import conclude_all
    from vlapack.evaluate.contender import contender
    from vlapack.evaluate.floor import parents
    from vlapack.evaluate.latency import plan_clock
    from vlapack.evaluate.plan import Plan, choose_replan
    from vlapack.evaluate.run import evaluate
    from vlapack.evaluate.sequential import Stopping
    from vlapack.evaluate.tasks import choose_init_states, choose_tasks, listed_tasks
    from vlapack.files import require_writable
    from vlapack.libero.drift import check_drift
    from vlapack.libero.suites import num_tasks
    from vlapack.machine.gpu import parse_device

    check_drift(drift)
    if (noise_floor or bf16_floor) and baseline is None:
        raise InputError("a noise floor is the baseline's disagreement with itself: give `baseline`")
    choose_latency(clock.mode, clock.latency, clock.control_hz)  # refused before a policy is loaded
    scenes = simulator_here()  # asked first: nothing is loaded for an evaluation that cannot run
    if out is None and playing.shard is not None:
        raise InputError(f"`shard={playing.shard!r}` is one of several: give all of them the same `out`")
    out = default_out(policy) if out is None else out
    require_writable(out)
    computing = flags.policy_options()
    how = playing.options(computing)
    device = parse_device(computing["device"])
    options = flags.checkpoint_options() | computing
    states = choose_init_states(trials, init_states)
    ours, metadata = contender("policy", policy, **options)
    contenders = [ours]
    if baseline is not None:
        contenders = [*parents(baseline, options, noise_floor=noise_floor, bf16_floor=bf16_floor), ours]
    tasks = choose_tasks(suite, task_ids, listed_tasks(metadata), num_tasks)
    require_movable(tasks, drift)
    carried_out = choose_replan(replan, metadata)
    plan = Plan(
        tasks=tasks,
        init_states=states,
        noise_seeds=noise_seeds,
        policies={entry.role: entry.identity for entry in contenders},
        seed=seed,
        replan=carried_out,
        hard_reset=hard_reset,
        drift=drift,
        simulator=scenes,
        clock=plan_clock(contenders, out, **asdict(clock), replan=carried_out, shard=how["shard"]),
        **computed_by(device, computing),
    )
    named = ", ".join(f"{name}_{task}" for name, task in plan.tasks)
    seeds = f"; noise seeds {noise_seeds}" if noise_seeds > 1 else ""
    say(f"episodes per policy: {len(plan.cases())} ({named}; init states {list(states)}{seeds}); engine {plan.engine}")
    say_conditions(plan)
    say(f"results go to {out}; after an interruption, the same command with --out {out} continues there")
    say(f"vlapack watch {shlex.quote(str(out))} shows how far it is")
    until = None if until_ci is None else Stopping(plan, until_ci)
    records = evaluate(plan, contenders, out, until=until, **how)
    if how["shard"] is not None:
        return show_shard(records, out, how["shard"], json=json)
    return show_results(conclude_all(plan, records, out, until=until), out, json=json)


def require_movable(tasks: Sequence[tuple[str, int]], drift: float) -> None:
    """Refuse tasks in which nothing can drift, if something is to."""
    from vlapack.libero.drift import require_drifting

    if drift:
        require_drifting(tasks)


def say_conditions(plan: Plan) -> None:
    """Say how fast the target moves, and how time goes on, where they do."""
    from vlapack.libero.drift import described

    if plan.drift:
        say(described(plan.drift))
    if not plan.clock.stands_still:
        say(f"clock: {plan.clock.said()}")


def simulator_here() -> str:
    """Return which simulator plays; say so if some scenes differ from openpi's."""
    from vlapack.libero.suites import mujoco_version, other_scenes, simulator

    scenes = simulator()
    if (difference := other_scenes(mujoco_version())) is not None:
        say(difference)
    return scenes


def computed_by(device: torch.device, computing: Mapping[str, Any]) -> dict[str, Any]:
    """The `engine` and `arithmetic` of a plan."""
    from vlapack.ops.arithmetic import arithmetic
    from vlapack.ops.engine import described

    engine = described(device)
    engine += f", {computing['dtype']}" if computing["dtype"] != "float32" else ""
    engine += ", compiled" if computing["compile"] else ""
    return {"engine": engine, "arithmetic": arithmetic(device)}


def show_shard(records: Mapping[str, Sequence[Record]], out: Path, shard: Shard, *, json: bool) -> int:
    """Say that a shard is done; what its episodes mean, all of them tell together."""
    played = [record for some in records.values() for record in some]
    errors = sum(record.error is not None for record in played)
    say(f"shard {shard}: {len(played)} episodes, {errors} without a result; `vlapack merge {out}` when all are there")
    if json:
        emit_json({"shard": str(shard), "episodes": len(played), "errors": errors, "out": str(shard.folder(out))})
    return 1 if errors else 0


def default_out(policy: str) -> Path:
    """Return `outputs/eval/<date>/<time>_<policy>`, as LeRobot names its folders."""
    now = datetime.datetime.now()
    name = Path(policy).resolve().name.replace(":", "_")  # of a server: HOST_PORT
    return Path("outputs") / "eval" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}_{name}"
