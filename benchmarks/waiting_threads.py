"""What does it cost to import torch before vlapack, when another process holds a core?

    python benchmarks/waiting_threads.py [--chunks 20] [--rounds 2]

A process that imports vlapack first and one that imports torch first run the same policy in turns, chunk by chunk,
first alone and then beside loops that hold a core each. Only one of the two runs at a time; rounds start new processes
in the other order. Every chunk counts but the first of a process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro
from common.results import write_result

from vlapack.bench.race import race, started
from vlapack.bench.worker import BenchTask
from vlapack.console import say
from vlapack.machine.waiting import POLICY, SPINS
from vlapack.ops import engine

RESULT = Path(__file__).parent / "results" / "waiting_threads.json"
ORDERS = ("vlapack first", "torch first")
WORKER = "import sys; from vlapack.bench.worker import main; sys.exit(main())"
BUSY = "while True: pass"


def main(
    policy: str = "tiny-libero", *, chunks: int = 20, rounds: int = 2, threads: int = 2, result: Path = RESULT
) -> None:
    """Measure, and write the result.

    Args:
        policy: A pack, or tiny-libero.
        chunks: That count, of each process.
        rounds: Times that both processes are started.
        threads: Of each process.
        result: The JSON file.
    """
    task = BenchTask(policy, threads=threads)
    load = round(os.getloadavg()[0], 1)
    rows = [_row(task, busy, chunks, rounds) for busy in (0, 1)]
    write_result(
        result,
        rows,
        question="What does it cost to import torch before vlapack, when another process holds a core?",
        policy=Path(policy).name,
        engine=engine.described(),
        threads=threads,
        chunks=chunks * rounds,
        load_average_before=load,
    )


def _row(task: BenchTask, busy: int, chunks: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a chunk for both orders of import, beside so many busy processes."""
    found: dict[str, list[float]] = {order: [] for order in ORDERS}
    with _holding_cores(busy):
        for number in range(rounds):
            say(f"{busy} busy, round {number + 1} of {rounds}")
            orders = ORDERS if number % 2 == 0 else ORDERS[::-1]
            with started({order: _command(order, task) for order in orders}) as runners:
                race(runners, chunks)
            for runner in runners:
                found[runner.name] += [chunk["ms"] for chunk in runner.chunks]
    return {"busy_processes": busy} | {order.replace(" ", "_"): _spread(found[order]) for order in ORDERS}


def _command(order: str, task: BenchTask) -> list[str]:
    """A worker's command line, without the variables that this process has set for itself."""
    first = "import torch; " if order == "torch first" else ""
    unset = [word for name in (POLICY, SPINS) for word in ("-u", name)]
    return ["env", *unset, sys.executable, "-c", f"{first}{WORKER}", task.command()[-1]]


def _spread(milliseconds: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(milliseconds, n=4)
    found = {"median": median, "quartile_low": low, "quartile_high": high, "max": max(milliseconds)}
    return {name: round(value, 1) for name, value in found.items()}


@contextmanager
def _holding_cores(count: int) -> Iterator[None]:
    """Run so many processes that never rest."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    tyro.cli(main)
