"""`vlapack eval`: a policy and its float parent on the same LIBERO episodes, with intervals and a paired test."""

from __future__ import annotations

import datetime
from pathlib import Path

import tyro

from vlapack.commands.shared_flags import Flat, PolicyFlags
from vlapack.console import emit_json, say, spelled, stdout
from vlapack.errors import InputError


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
    workers: int = 2,
    videos: bool = True,
    out: Path | None = None,
    json: bool = False,
    flags: Flat[PolicyFlags] = PolicyFlags(),  # noqa: B008  (frozen)
) -> int:
    """Play LIBERO episodes with a policy, and with a baseline on the same ones.

    Both get the same init states, simulator seeds and flow noise, so that outcomes are compared in pairs (exact
    McNemar test). OUT collects episodes.jsonl, videos/, eval_info.json (LeRobot's form) and summary.json. After
    Ctrl-C or a kill, the same command with the same --out plays only the episodes that are missing.

        vlapack eval PACK --baseline tiny-libero --trials 20 --out outputs/eval/full
        vlapack eval PACK --baseline tiny-libero --trials 20 --noise-seeds 5 --noise-floor
        vlapack eval PACK --baseline CHECKPOINT --config pi05_libero --suite libero_spatial --task-ids 0,3,7
        vlapack eval ws://HOST:8000 --suite libero_goal      (a policy that `vlapack serve` serves)

    Args:
        policy: A pack, a checkpoint folder, tiny-libero, or the address of a policy server (ws://HOST:PORT; its key is
            read from VLAPACK_API_KEY).
        baseline: The float parent to compare with, a folder or tiny-libero; without it the policy plays alone.
        suite: libero_spatial, libero_object, libero_goal, libero_10, libero_90, or several with commas. Default:
            the suites that the policy says it was trained for.
        task_ids: Ids and ranges within the suite, such as 0,3,6-7. Default: the tasks that the policy says it was
            trained for, else all of the suite.
        trials: Episodes per task, from the official init states 0 to trials-1. Default: 10.
        init_states: The init states themselves, such as 0-4,10, instead of --trials.
        noise_seeds: How often each start is played, each time with other flow noise: more episodes than there are init
            states.
        noise_floor: Play the baseline's episodes once more with other flow noise. How often it disagrees with itself
            is printed beside the drop. Without it, a policy's folder may bring a floor that was measured before.
        bf16_floor: Instead of other noise, play them with the same noise in bfloat16: what any rounding changes. Slow
            on CPUs without bfloat16 instructions.
        seed: Root of the simulator's seed and of every episode's flow noise.
        replan: Actions carried out of each chunk before the next is asked for. Default: what the policy says
            (LeRobot's n_action_steps), else openpi's 5.
        hard_reset: Build the scene again for every episode, as openpi does; slower.
        workers: Processes that hold a simulator. No result depends on it.
        videos: Write a video of every episode.
        out: Output folder. Default: outputs/eval/<date>/<time>_<policy>.
        json: Write summary.json to stdout instead of a table.
        flags: What the checkpoint does not say, and how the policy computes.
    """
    from vlapack.evaluate.contender import contender
    from vlapack.evaluate.floor import committed_floor, parents
    from vlapack.evaluate.plan import Plan, choose_replan
    from vlapack.evaluate.run import conclude, evaluate
    from vlapack.evaluate.summary import FAILED_VERDICTS
    from vlapack.evaluate.table import floor_sentence, print_table, sentence
    from vlapack.evaluate.tasks import choose_init_states, choose_tasks, listed_tasks
    from vlapack.files import require_writable
    from vlapack.libero.suites import mujoco_version, num_tasks, other_scenes, simulator
    from vlapack.machine.gpu import parse_device
    from vlapack.ops.arithmetic import arithmetic
    from vlapack.ops.engine import described

    if (noise_floor or bf16_floor) and baseline is None:
        raise InputError("a noise floor is the baseline's disagreement with itself: give `baseline`")
    scenes = simulator()  # asked first: nothing is loaded for an evaluation that cannot run
    if (difference := other_scenes(mujoco_version())) is not None:
        say(difference)
    out = default_out(policy) if out is None else out
    require_writable(out)
    computing = flags.policy_options()
    device = parse_device(computing["device"])
    options = flags.checkpoint_options() | computing
    states = choose_init_states(trials, init_states)
    ours, metadata = contender("policy", policy, **options)
    contenders, committed = [ours], None
    if baseline is not None:
        contenders = [*parents(baseline, options, noise_floor=noise_floor, bf16_floor=bf16_floor), ours]
        committed = committed_floor(contenders[0])
    plan = Plan(
        tasks=choose_tasks(suite, task_ids, listed_tasks(metadata), num_tasks),
        init_states=states,
        noise_seeds=noise_seeds,
        policies={entry.role: entry.identity for entry in contenders},
        seed=seed,
        replan=choose_replan(replan, metadata),
        hard_reset=hard_reset,
        engine=described(device)
        + (f", {computing['dtype']}" if computing["dtype"] != "float32" else "")
        + (", compiled" if computing["compile"] else ""),
        simulator=scenes,
        arithmetic=arithmetic(device),
    )
    tasks = ", ".join(f"{name}_{task}" for name, task in plan.tasks)
    seeds = f"; noise seeds {noise_seeds}" if noise_seeds > 1 else ""
    say(f"episodes per policy: {len(plan.cases())} ({tasks}; init states {list(states)}{seeds}); engine {plan.engine}")
    say(f"results go to {out}; after an interruption, the same command with --out {out} continues there")
    records = evaluate(plan, contenders, out, workers=workers, videos=videos)
    summary = conclude(plan, records, out, names=(policy, baseline), committed=committed)
    if json:
        emit_json(summary)
    else:
        print_table(f"{summary['suite']}, episodes: {summary['episodes']}", {policy: summary})
        said = (spelled(sentence(summary)), floor_sentence(summary), str(out))
        stdout.print("\n".join(filter(None, said)), markup=False, soft_wrap=True)
    if (remedy := FAILED_VERDICTS.get(summary["verdict"])) is not None:
        say(f"failed: {remedy}")
        return 1
    return 0


def default_out(policy: str) -> Path:
    """Return `outputs/eval/<date>/<time>_<policy>`, as LeRobot names its folders."""
    now = datetime.datetime.now()
    name = Path(policy).resolve().name.replace(":", "_")  # of a server: HOST_PORT
    return Path("outputs") / "eval" / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}_{name}"
