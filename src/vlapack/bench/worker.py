"""One policy in a process of its own: loads it, and then runs a chunk for every line on stdin.

    python -m vlapack.bench.worker '{"target": "tiny-libero"}'

It answers on stdout with one JSON document a line: first what was loaded (`measurement.footprint`), then every chunk
(`measurement.chunk`). If it cannot go on, its last line is `{"error": "why"}`. Policies that are compared take turns,
and each process's memory is one policy's. Another implementation needs no more than this protocol to be compared
(benchmarks/openpi_worker.py).
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vlapack.bench.measurement import chunk, footprint, require_joined
from vlapack.bench.race import INPUT_ERROR
from vlapack.bench.synthetic import synthetic_policy
from vlapack.checkpoints import open_with
from vlapack.checkpoints.configs import policy_config
from vlapack.console import exit_code
from vlapack.errors import InputError, WorkError
from vlapack.observations.folder import open_source
from vlapack.pi0.savings import Savings
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import Guidance
from vlapack.recipe.presets import preset

FLOAT = "float"
"""The target that is an architecture without quantization."""


@dataclass(frozen=True)
class BenchTask:
    """What a worker is to load and run.

    Attributes:
        target: a folder or `tiny-libero`; with `arch`, `float` or a preset.
        arch: the configuration of which random weights are made; None: `target` has weights.
        config, norm_stats, tokenizer: what an openpi folder does not say itself.
        dtype: of the arithmetic: float32 or bfloat16.
        compile: run it under `torch.compile`.
        device: where it is.
        without: savings that are switched off.
        data: a folder of observations, of which the first is taken; None: the layout's example.
        prompt: in the place of the observation's own.
        threads: None: as torch chooses.
        rtc: how a second chunk is joined to each; None: there is none.
    """

    target: str
    arch: str | None = None
    config: str | None = None
    norm_stats: str | None = None
    tokenizer: str | None = None
    dtype: str = "float32"
    compile: bool = False
    device: str = "cpu"
    without: tuple[str, ...] = ()
    data: str | None = None
    prompt: str | None = None
    threads: int | None = None
    rtc: Guidance | None = None

    def command(self) -> list[str]:
        """The command line of the worker that does it."""
        return [sys.executable, "-m", "vlapack.bench.worker", json.dumps(asdict(self))]


def load(task: BenchTask) -> Policy:
    """Load the policy, or make it up.

    Raises:
        InputError: it cannot be loaded; the message says what is missing.
    """
    options: dict[str, Any] = {
        "dtype": getattr(torch, task.dtype),
        "savings": Savings().without(*task.without),
        "compile": task.compile,
        "device": task.device,
    }
    if task.arch is not None:
        recipe = None if task.target == FLOAT else preset(task.target)
        return synthetic_policy(policy_config(task.arch), recipe, **options)
    norm_stats, tokenizer = (None if path is None else Path(path) for path in (task.norm_stats, task.tokenizer))
    checkpoint = open_with(task.target, config=task.config, norm_stats=norm_stats, tokenizer=tokenizer)
    return Policy.from_checkpoint(checkpoint, **options)


def observed(policy: Policy, task: BenchTask) -> dict[str, Any]:
    """Return what the policy is shown."""
    if task.data is None:
        shown = policy.example()
    else:
        shown = open_source(Path(task.data), policy.config).take(1)[0].observation
    return shown if task.prompt is None else {**shown, "prompt": task.prompt}


def main() -> int:
    """Load, say so, and answer every line."""
    # Nothing else that writes to stdout may come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    task = BenchTask(**json.loads(sys.argv[1]))
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    try:
        start = time.perf_counter()
        policy = load(task)
        seconds = time.perf_counter() - start
        if task.rtc is not None:
            require_joined(policy, task.rtc)
        shown = observed(policy, task)
        answers.write(json.dumps({"load_seconds": seconds, **footprint(policy, shown)}) + "\n")
        for _ in sys.stdin:
            answers.write(json.dumps(chunk(policy, shown, task.rtc)) + "\n")
    except (InputError, WorkError) as error:  # for the parent to say, which knows how its user spells settings
        answers.write(json.dumps({"error": str(error)}) + "\n")
        return INPUT_ERROR if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
