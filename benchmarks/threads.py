"""What would more threads than two bring? A model: what a chunk's parts compute, and how often their threads wait.

    python benchmarks/threads.py [--rounds 7]

Measured on one and on two threads, in turns: the milliseconds of each part of a full-size chunk, how often a team of
threads is started and how often its threads meet, and what one start and one meeting cost. A thread that has waited
long is asleep and takes longer to start, so a start is timed after the average pause between two starts of that part.
With W the work that is shared, S what one thread does alone and w the waiting, T(1) = W + S and
T(2) = W / 2 + S + w(2), which gives W and S. The model is T(t) = W / t + S + w(t).

S is a remainder: it also holds what memory, other programs and torch's own threads cost.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tyro
from common.full_size import MACHINES
from common.results import ROOT, isa, write_between, write_result

from vlapack.bench import worker
from vlapack.bench.measurement import PHASES
from vlapack.bench.race import race, started
from vlapack.bench.worker import BenchTask
from vlapack.pi0.flow import Pi0
from vlapack.policy.policy import Policy

RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs" / "kernels.md"
MARKER = "model of threads"
PARTS = tuple(PHASES.values())
THREADS = (1, 2, 4, 8, 16, 32, 64)
MEETINGS = 20_000
STARTS = 31


@dataclass(frozen=True)
class Part:
    """A part of a chunk: `shared` and `alone` in ms, and how its threads wait."""

    shared: float
    alone: float
    waits: Waits

    @classmethod
    def of(cls, one: float, two: float, waits: Waits) -> Part:
        """Split a part by its milliseconds on one and on two threads."""
        shared = min(max(2 * (one - two + waits.ms(2)), 0.0), one)
        return cls(shared, one - shared, waits)

    def ms(self, threads: int) -> float:
        """Return what the model says."""
        return self.shared / threads + self.alone + self.waits.ms(threads)


@dataclass(frozen=True)
class Waits:
    """How often threads are started and meet, and the microseconds that a start and a meeting of two take.

    Threads arrive at one counter, one after the other, so both grow by the same for each thread that has to arrive.
    """

    starts: float
    meetings: float
    start_us: float
    meeting_us: float

    def ms(self, threads: int) -> float:
        """Return the milliseconds of all of them."""
        return (self.starts * self.start_us + self.meetings * self.meeting_us) * (threads - 1) / 1e3


WAITS = tuple(field.name for field in fields(Waits))


def main(*, arch: str = "pi05_libero", policy: str = "full", dtype: str = "bfloat16", rounds: int = 7) -> None:
    """Measure, and write the result and the table.

    Args:
        arch: The network's configuration; weights are random.
        policy: A preset.
        dtype: Of the float arithmetic.
        rounds: Chunks that count, of each.
    """
    tasks = {str(count): BenchTask(policy, arch=arch, dtype=dtype, threads=count) for count in (1, 2)}
    with started({name: _command(task) for name, task in tasks.items()}) as runners:
        race(runners, rounds)
    one, two = ({part: _median(runner.chunks, part) for part in PARTS} for runner in runners)
    waits = {
        part: {key: statistics.median(chunk["waits"][part][key] for chunk in runners[1].chunks) for key in WAITS}
        for part in PARTS
    }
    rows = [{"part": part, "ms": [one[part], two[part]], **waits[part]} for part in PARTS]
    result = RESULTS / f"threads-{isa()}.json"
    facts = {"arch": arch, "policy": policy, "dtype": dtype, "rounds": rounds}
    write_result(result, rows, question="What would more threads than two bring?", **facts)
    write_tables()


def _command(task: BenchTask) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--worker", task.command()[-1]]


def _median(chunks: Sequence[Mapping[str, Any]], part: str) -> float:
    return statistics.median(chunk["parts"][part] for chunk in chunks)


def work(task: str) -> int:
    """Be one of the two processes: `vlapack bench`'s own, which also counts how often threads wait."""
    from vlapack import _kernels as kernels

    measured, footprint = worker.chunk, worker.footprint
    waits: dict[str, dict[str, float]] = {}

    def counting(work: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            before = kernels.waits()
            result = work(*args)
            found = waits.setdefault(part, {"starts": 0, "meetings": 0})
            for name, old, new in zip(("starts", "meetings"), before, kernels.waits(), strict=True):
                found[name] += new - old
            return result

        return run

    def chunk(policy: Policy, *args: Any) -> dict[str, Any]:
        waits.clear()
        timed = measured(policy, *args)
        meeting = meeting_us(kernels)
        for part, found in waits.items():
            starts = found["starts"]  # none on one thread: nothing to time
            found["start_us"] = start_us(kernels, timed["parts"][part] / 1e3 / starts) if starts else 0.0
            found["meeting_us"] = meeting
        return {**timed, "waits": dict(waits)}

    def loaded(policy: Policy, *args: Any) -> dict[str, Any]:
        model: Pi0 = policy.model
        for name, part in PHASES.items():
            setattr(model, name, counting(getattr(model, name), part))
        return footprint(policy, *args)

    worker.chunk, worker.footprint = chunk, loaded
    sys.argv[1:] = [task]
    return worker.main()


def start_us(kernels: Any, pause: float) -> float:
    """Return the microseconds of a start of two threads, each after `pause` seconds in which one of them works."""
    took = []
    for _ in range(STARTS):
        until = time.perf_counter() + pause
        while (begin := time.perf_counter()) < until:
            pass
        kernels.meet(2, 0)
        took.append(time.perf_counter() - begin)
    return statistics.median(took) * 1e6


def meeting_us(kernels: Any) -> float:
    """Return the microseconds of a meeting of two threads that are at work."""
    took = []
    for _ in range(7):
        begin = time.perf_counter()
        kernels.meet(2, MEETINGS)
        took.append(time.perf_counter() - begin)
    return statistics.median(took) * 1e6 / MEETINGS


def write_tables() -> None:
    """Write the model into the docs."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("threads-*.json"))]
    write_between(DOCS, MARKER, "\n\n".join(map(table, found)) or "Not measured yet.")


def table(document: Mapping[str, Any]) -> str:
    """Return what was measured and what the model says, in Markdown."""
    parts = {row["part"]: Part.of(*row["ms"], Waits(*(row[key] for key in WAITS))) for row in document["rows"]}
    measured = {row["part"]: row["ms"] for row in document["rows"]}
    machine = MACHINES.get(document["machine"]["family"], document["machine"]["cpu"])
    lines = [
        f"{machine}, `{document['policy']}` of a full-size π0.5 in {document['dtype']}, ms. *Measured*: one and two "
        "threads. *Model*: the rest. *Alone* is what the model leaves to one thread: a remainder, which also "
        "holds what memory, other programs and torch's own threads cost.",
        "",
        "| | starts | of µs | meetings | of µs | alone | measured: 1 | 2 | "
        + " | ".join(f"model: {count}" if count == THREADS[2] else str(count) for count in THREADS[2:])
        + " |",
        "|" + "---|" * (8 + len(THREADS[2:])),
    ]
    for name, part in parts.items():
        cells = [f"{each:,.0f}" for each in (*measured[name], *(part.ms(count) for count in THREADS[2:]))]
        wait = part.waits
        counts = f"{wait.starts:,.0f} | {wait.start_us:.1f} | {wait.meetings:,.0f} | {wait.meeting_us:.2f}"
        lines.append(f"| {name} | {counts} | {part.alone:,.1f} | {' | '.join(cells)} |")
    total = [sum(each) for each in zip(*measured.values(), strict=True)]
    total += [sum(part.ms(count) for part in parts.values()) for count in THREADS[2:]]
    lines.append(f"| all | | | | | | {' | '.join(f'{each:,.0f}' for each in total)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        sys.exit(work(sys.argv[2]))
    tyro.cli(main)
