"""`vlapack sweep`: many policies and recipes on the same LIBERO episodes, from one file."""

from __future__ import annotations

import shlex
from pathlib import Path

import tyro

from vlapack.commands.eval import computed_by, require_movable, say_conditions, show_shard, simulator_here
from vlapack.commands.quantize import calibration_set
from vlapack.commands.results import show_results
from vlapack.commands.shared_flags import Flat, PlayFlags, PolicyFlags
from vlapack.console import say


def sweep(
    file: tyro.conf.Positional[Path],
    *,
    out: Path | None = None,
    prepare: bool = False,
    json: bool = False,
    playing: Flat[PlayFlags] = PlayFlags(),  # noqa: B008  (frozen)
) -> int:
    """Play a sweep file (YAML): policies x recipes x tasks x starts x noise seeds, all with the same noise.

    Packs are made first, into OUT/packs. Each is compared with its float parent, which plays once. OUT receives what
    `vlapack eval` writes, plus a folder in OUT/policies for each policy. After Ctrl-C or a kill, the same command plays
    only the episodes that are missing. docs/sweeps.md describes the file.

        vlapack sweep sweep.yaml
        vlapack sweep sweep.yaml --ray auto --workers 4
        vlapack sweep sweep.yaml --prepare, then on 8 machines: vlapack sweep sweep.yaml --shard 1/8 (... 8/8)

    Args:
        file: The sweep file.
        out: Output folder. Default: outputs/sweep/<the file's name>.
        prepare: Only make the packs. Do this before starting shards, because they all need them.
        json: Write summary.json to stdout instead of a table.
        playing: How the episodes are played.
    """
    from vlapack.evaluate.conclusions import conclude_all
    from vlapack.evaluate.latency import plan_clock
    from vlapack.evaluate.run import evaluate
    from vlapack.evaluate.sequential_sweep import StoppingEach
    from vlapack.evaluate.sweep import contenders_of, make_packs, plan_of_sweep, replan_of
    from vlapack.evaluate.sweep_file import read_sweep
    from vlapack.files import require_writable
    from vlapack.libero.suites import num_tasks
    from vlapack.machine.gpu import parse_device

    wanted = read_sweep(file)
    scenes = simulator_here()
    out = Path("outputs") / "sweep" / file.stem if out is None else out
    require_writable(out)
    computing = PolicyFlags(dtype=wanted.dtype, compile=wanted.compile, device=wanted.device).policy_options()
    how = playing.options(computing)
    packs = out / "packs"
    if prepare or how["shard"] is None:
        calib = None if wanted.calib is None else Path(wanted.calib)
        make_packs(wanted, packs, lambda parent, recipe: calibration_set(parent, recipe, calib, None))
    if prepare:
        say(f"the packs are in {packs}")
        return 0
    contenders, said = contenders_of(wanted, packs, computing)
    machine = computed_by(parse_device(computing["device"]), computing)
    carried_out = replan_of(wanted, said)
    clock = plan_clock(contenders, out, **wanted.clock(), replan=carried_out, shard=how["shard"])
    plan = plan_of_sweep(wanted, contenders, said, num_tasks, simulator=scenes, clock=clock, **machine)
    require_movable(plan.tasks, plan.drift)
    say(f"{len(contenders)} roles: {', '.join(plan.policies)}; episodes for each: {len(plan.cases())}; out: {out}")
    say_conditions(plan)
    say(f"vlapack watch {shlex.quote(str(out))} shows how far it is")
    until = None if wanted.until_ci is None else StoppingEach(plan, wanted.until_ci)
    records = evaluate(plan, contenders, out, until=until, **how)
    if how["shard"] is not None:
        return show_shard(records, out, how["shard"], json=json)
    return show_results(conclude_all(plan, records, out, until=until), out, json=json)
