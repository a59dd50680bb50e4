"""An evaluation in shards on a Slurm cluster, by submitit (pip install submitit).

    python submit.py 8 PACK --baseline CHECKPOINT --suite libero_10 --trials 50 --no-videos --out DIR

Everything after the number of shards is passed to `vlapack eval`. Jobs that Slurm stops at their time limit are
submitted again by submitit, and continue where they stopped. When all are done, the shards are merged.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any


class Shard:
    """One shard, as submitit calls it."""

    def __init__(self, number: int, count: int, arguments: Sequence[str]) -> None:
        self.command = ["vlapack", "eval", *arguments, "--shard", f"{number}/{count}"]

    def __call__(self) -> None:
        """Play it, on a node."""
        subprocess.run(self.command, check=True)

    def checkpoint(self, *args: Any) -> Any:
        """Say what to submit where the time is over: the same again, since `vlapack eval` continues."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def main(count: int, arguments: Sequence[str], executor: Any = None) -> int:
    """Submit the shards as one array, wait for them, and merge."""
    if executor is None:
        import submitit

        executor = submitit.AutoExecutor(folder="slurm")
        executor.update_parameters(timeout_min=240, cpus_per_task=4, mem_gb=16)
    with executor.batch():
        jobs = [executor.submit(Shard(number, count, arguments)) for number in range(1, count + 1)]
    for job in jobs:
        job.result()
    return subprocess.run(["vlapack", "merge", arguments[arguments.index("--out") + 1]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
