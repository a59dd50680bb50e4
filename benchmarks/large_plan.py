"""How much memory and time does the machinery of an evaluation take for a plan of 100,000 episodes?

    python benchmarks/large_plan.py [--episodes 100000]

Simulator and policy are stubs, so that only vlapack's own work is measured: processes, pipes, noise, the record with
every line on the disk, and one line of progress. The memory is this process's, the one that infers and writes, every
thousandth episode and after the summary.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import torch
import tyro
from common.results import ROOT, write_between, write_result
from common.stub import stub

from vlapack import console
from vlapack.evaluate.contender import Contender
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.run import conclude, evaluate

RESULT = Path(__file__).parent / "results" / "large_plan.json"
DOCS = ROOT / "docs" / "sweeps.md"
SAMPLES = 100
STARTS, TASKS = 50, 10


@dataclass
class Noise:
    """A policy that acts as its noise says, and looks at this process's memory every so many chunks."""

    every: int
    seen: int = 0
    start: float = field(default_factory=time.monotonic)
    samples: list[dict[str, float]] = field(default_factory=list)

    def infer(self, observation: dict[str, Any], /, *, generator: torch.Generator | None = None) -> dict[str, Any]:
        self.seen += 1
        if self.seen % self.every == 0:
            seconds = round(time.monotonic() - self.start, 1)
            self.samples.append({"episodes": self.seen, "seconds": seconds, "resident_mb": resident_mb()})
        return {"actions": torch.randn(5, 7, generator=generator).numpy()}

    def held_bytes(self) -> int:
        return 0

    def mapped_bytes(self) -> int:
        return 0


def resident_mb() -> float:
    """Memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def main(episodes: int = 100_000, *, workers: int = 2, result: Path = RESULT) -> None:
    """Play, and write the result.

    Args:
        episodes: In the plan, in steps of 500.
        workers: Simulators.
        result: The JSON file.
    """
    policy = Noise(max(1, episodes // SAMPLES))
    entry = Contender("policy", "policy", {"weights": "stub"}, 0, lambda: policy)
    plan = Plan(
        tasks=tuple(("stub", task) for task in range(TASKS)),
        init_states=tuple(range(STARTS)),
        noise_seeds=max(1, episodes // (STARTS * TASKS)),
        policies={"policy": entry.identity},
    )
    out = Path(tempfile.mkdtemp(prefix="large-plan-"))
    load = round(os.getloadavg()[0], 1)
    before = resident_mb()
    try:
        with quiet():
            start = time.monotonic()
            records = evaluate(plan, [entry], out, workers=workers, videos=False, factory=stub)
            played = time.monotonic()
            summary = conclude(plan, records, out, names=("stub", None))
            end = time.monotonic()
        size = (out / "episodes.jsonl").stat().st_size
    finally:
        shutil.rmtree(out)
    resident = [sample["resident_mb"] for sample in policy.samples]
    write_result(
        result,
        policy.samples,
        question="How much memory and time does the machinery of an evaluation take for a plan of 100,000 episodes?",
        episodes=summary["episodes"],
        workers=workers,
        load_average_before=load,
        episodes_per_second=round(summary["episodes"] / (played - start), 1),
        seconds={"playing": round(played - start, 1), "summary": round(end - played, 1)},
        resident_mb={
            "before": before,
            "first_sample": resident[0],
            "most_while_playing": max(resident),
            "after_summary": resident_mb(),
        },
        record_mb=round(size / 1e6, 1),
    )
    if result == RESULT:
        write_tables()


def write_tables() -> None:
    """Write what was found into the docs."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    memory, seconds = found["resident_mb"], found["seconds"]
    rows = found["rows"]
    fastest = max(
        (after["episodes"] - before["episodes"]) / (after["seconds"] - before["seconds"])
        for before, after in itertools.pairwise(rows)
    )
    machine = f"{found['machine']['cores']} cores of {found['machine']['cpu']}"
    lines = [
        "| | |",
        "|---|---|",
        f"| episodes | {found['episodes']:,}, on {machine} with a load of {found['load_average_before']} before |",
        f"| memory after the first hundredth of the run | {memory['first_sample']:.0f} MB, torch included |",
        f"| the most while playing | {memory['most_while_playing']:.0f} MB |",
        f"| after the summary | {memory['after_summary']:.0f} MB |",
        f"| episodes a second, on average | {found['episodes_per_second']:.0f} |",
        f"| in the fastest hundredth of the run | {fastest:,.0f} |",
        f"| the summary | {seconds['summary']:.0f} s |",
        f"| `episodes.jsonl` | {found['record_mb']:.0f} MB |",
    ]
    write_between(DOCS, "large plan", "\n".join(lines))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send the lines of progress to nowhere; they are written as ever."""
    with Path(os.devnull).open("w") as nowhere:
        console.stderr.file = nowhere
        try:
            yield
        finally:
            console.stderr.file = None


if __name__ == "__main__":
    tyro.cli(main)
