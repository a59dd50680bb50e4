"""`vlapack bench`: milliseconds and bytes of a policy on this machine, and how far that is from the CPU's best."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from vlapack.commands.shared_flags import Flat, PolicyFlags
from vlapack.console import emit_json, say
from vlapack.errors import InputError


def bench(
    *,
    policy: str | None = None,
    arch: str | None = None,
    baseline: str | None = None,
    engine: str | None = None,
    threads: int | None = None,
    repeats: int = 5,
    without: str = "",
    data: Path | None = None,
    prompt: str | None = None,
    rtc: Literal["lerobot", "vjp", "inpaint", "trained"] | None = None,
    json: bool = False,
    flags: Flat[PolicyFlags] = PolicyFlags(),  # noqa: B008  (frozen)
) -> int:
    """Measure how long a policy takes for an action chunk, part by part, and what it holds in memory.

    Policy and baseline run in their own processes and take turns, chunk by chunk. The floor is the time of the products
    alone, at the peak speed just measured on this CPU or GPU (docs/runtime.md).

        vlapack bench --policy packs/tiny-full --baseline tiny-libero
        vlapack bench --policy packs/tiny-full --baseline tiny-libero --rtc vjp  (also guided chunks)
        vlapack bench --arch pi05_libero --policy full --baseline float  (random weights: no checkpoint is needed)

    Args:
        policy: A pack, a checkpoint folder, or tiny-libero; with --arch a preset, or float (the default there).
        arch: Configuration for a policy with random weights, such as pi05_libero.
        baseline: What to compare with, of the same kinds as POLICY.
        engine: Engine for packed layers: cpu, triton (on GPUs) or reference. Default: VLAPACK_ENGINE, else the best
            available one.
        threads: Threads to use. Default: torch's choice.
        repeats: Chunks to time, after one warm-up chunk.
        without: Savings to switch off, to see what they are worth (docs/runtime.md lists them).
        data: Folder of observations; the first one is used. Default: an example for the robot.
        prompt: Instruction to use instead of the observation's.
        rtc: Time each chunk a second time, joined to the first by real-time chunking (docs/realtime.md): as LeRobot
            does, by the paper's formula, by inpainting, or as a policy was trained to.
        json: Write one JSON document to stdout instead of tables.
        flags: What the checkpoint does not say itself, and how the policy computes.
    """
    if repeats < 1 or (threads is not None and threads < 1):
        raise InputError(f"--repeats {repeats}, --threads {threads}: give 1 or more")
    if policy is None and arch is None:
        raise InputError("nothing to measure: give a folder, tiny-libero, or --arch pi05_libero")
    if addresses := [name for name in (policy, baseline) if name is not None and "://" in name]:
        raise InputError(
            f"{addresses[0]}: the address of a server, whose parts cannot be timed from here; give the folder that it "
            "serves, on a machine like the server's"
        )
    if engine is not None:
        from vlapack.ops.engine import ENGINE_VARIABLE

        os.environ[ENGINE_VARIABLE] = engine

    import torch

    from vlapack.bench.race import race, started
    from vlapack.bench.report import document, print_document
    from vlapack.bench.worker import FLOAT, BenchTask
    from vlapack.checkpoints.configs import policy_config
    from vlapack.machine.gpu import parse_device
    from vlapack.ops.engine import described
    from vlapack.pi0.savings import Savings

    computing = flags.policy_options()
    if threads is not None:
        torch.set_num_threads(threads)
    threads = torch.get_num_threads()
    omitted = tuple(filter(None, without.split(",")))

    def task(target: str) -> BenchTask:
        return BenchTask(
            target,
            arch=arch,
            config=flags.config,
            norm_stats=None if flags.norm_stats is None else str(flags.norm_stats),
            tokenizer=None if flags.tokenizer is None else str(flags.tokenizer),
            **computing,
            without=omitted,
            data=None if data is None else str(data),
            prompt=prompt,
            threads=threads,
            rtc=rtc,
        )

    Savings().without(*omitted)
    if arch is not None:
        policy_config(arch)
    names = [policy or FLOAT] + ([] if baseline is None else [baseline])
    if len(set(names)) < len(names):
        raise InputError(f"--baseline {baseline}: that is the policy itself")
    device = parse_device(computing["device"])
    say(f"engine {described(device)}, {threads} threads; {repeats} chunks each")
    with started({name: task(name).command() for name in names}) as runners:
        race(runners, repeats)
        found = document(runners, dtype=getattr(torch, computing["dtype"]), threads=threads, device=device)
    if json:
        emit_json(found)
    else:
        print_document(found)
    return 0
