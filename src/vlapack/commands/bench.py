"""`vlapack bench`: milliseconds and bytes of a policy on this machine, and how far that is from the CPU's best."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

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
    dtype: Literal["float32", "bfloat16"] = "float32",
    without: str = "",
    data: Path | None = None,
    prompt: str | None = None,
    compile: bool = False,
    config: str | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
    json: bool = False,
) -> int:
    """Measure how long a policy takes for an action chunk, part by part, and what it holds in memory.

    Policy and baseline run in processes of their own and take turns, chunk by chunk. The floor is the time that the
    products alone would take at the speed that this CPU was just seen to reach (docs/runtime.md).

        vlapack bench --policy packs/tiny-full --baseline tiny-libero
        vlapack bench --arch pi05_libero --policy full --baseline float     (random weights: no checkpoint is needed)

    Args:
        policy: A pack, a checkpoint folder, or tiny-libero; with --arch a preset, or float (the default there).
        arch: The configuration of which a policy with random weights is made, such as pi05_libero.
        baseline: What to compare with, of the same kinds as POLICY.
        engine: What runs packed layers: cpu or reference. Default: VLAPACK_ENGINE, or the best there is.
        threads: How many work. Default: as torch chooses.
        repeats: Chunks of each that count; one more goes before.
        dtype: Of the arithmetic around packed layers, and of a float policy.
        without: Savings to do without, with commas, to see what they are worth (docs/runtime.md names them).
        data: A folder of observations, of which the first is shown. Default: the robot's example.
        prompt: An instruction in the place of the observation's.
        compile: Compile the networks with torch.compile: minutes at first, faster chunks then. Off where one of
            OPENPI_DISABLE_TORCH_COMPILE, TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE is 1.
        config: What the policy in an openpi folder is: a configuration's name or JSON file. Packs need none.
        norm_stats: norm_stats.json or its folder, where it is not in the checkpoint's assets/.
        tokenizer: PaliGemma's SentencePiece model, where it is not found by itself.
        json: Write one JSON document to stdout instead of tables.
    """
    if repeats < 1 or (threads is not None and threads < 1):
        raise InputError(f"--repeats {repeats}, --threads {threads}: give 1 or more")
    if policy is None and arch is None:
        raise InputError("nothing to measure: give a folder, tiny-libero, or --arch pi05_libero")
    if engine is not None:
        from vlapack.ops.engine import VARIABLE

        os.environ[VARIABLE] = engine

    import torch

    from vlapack.bench.race import race, started
    from vlapack.bench.report import document, print_document
    from vlapack.bench.worker import FLOAT, Task
    from vlapack.checkpoints.configs import policy_config
    from vlapack.ops.engine import described
    from vlapack.pi0.savings import Savings
    from vlapack.policy.compiling import compile_wanted

    compiled = compile_wanted(compile)
    if threads is not None:
        torch.set_num_threads(threads)
    threads = torch.get_num_threads()
    omitted = tuple(filter(None, without.split(",")))

    def task(target: str) -> Task:
        return Task(
            target,
            arch=arch,
            config=config,
            norm_stats=None if norm_stats is None else str(norm_stats),
            tokenizer=None if tokenizer is None else str(tokenizer),
            dtype=dtype,
            compile=compiled,
            without=omitted,
            data=None if data is None else str(data),
            prompt=prompt,
            threads=threads,
        )

    Savings().without(*omitted)
    if arch is not None:
        policy_config(arch)
    names = [policy or FLOAT] + ([] if baseline is None else [baseline])
    if len(set(names)) < len(names):
        raise InputError(f"--baseline {baseline}: that is the policy itself")
    say(f"engine {described()}, {threads} threads; {repeats} chunks each")
    with started({name: task(name).command() for name in names}) as runners:
        race(runners, repeats)
        found = document(runners, dtype=getattr(torch, dtype), threads=threads)
    if json:
        emit_json(found)
    else:
        print_document(found)
    return 0
