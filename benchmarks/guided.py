"""What does a chunk cost that continues the previous one, against a plain one: float and packed?

    python benchmarks/guided.py
    python benchmarks/guided.py --arch pi05_libero --policies full --guidance vjp --repeats 6

Random weights, which take the time of trained ones. Float policy and pack take turns in processes of their own, and
each guided chunk comes right after a plain one in the same process: the ratio is that of such pairs, its median, so
other work on the machine meets both. The result has the rows of earlier runs with other arguments, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

import tyro
from common.full_size import MACHINES
from common.results import ROOT, origin, read_rows, write_between, write_result

from vlapack.bench.race import race, started
from vlapack.bench.worker import FLOAT, BenchTask
from vlapack.console import say, stdout
from vlapack.ops import engine

RESULT = ROOT / "benchmarks" / "results" / "guided.json"
DOCS = ROOT / "docs" / "realtime.md"
NETWORKS = {"tiny_libero": "as small as tiny-libero", "pi05_libero": "π0.5 at full size"}


def main(
    *,
    arch: str = "tiny_libero",
    policies: str = f"{FLOAT},full",
    guidance: str = "lerobot,vjp,inpaint",
    repeats: int = 20,
    threads: int = 1,
    result: Path = RESULT,
) -> None:
    """Measure, and add the rows to those that the result has.

    Args:
        arch: The network's configuration.
        policies: float and presets, with commas.
        guidance: Those to measure, with commas.
        repeats: Pairs of chunks that count, of each policy: two or more.
        threads: How many work.
        result: The JSON file.
    """
    rows = {identity(row): row for row in (read_rows(result) if result.exists() else [])}
    here = origin()
    load = round(os.getloadavg()[0], 1)
    for one in guidance.split(","):
        say(f"{arch}, guided by {one}")
        tasks = {
            policy: BenchTask(policy, arch=arch, threads=threads, rtc=one)  # type: ignore[arg-type]
            for policy in policies.split(",")
        }
        with started({policy: task.command() for policy, task in tasks.items()}) as runners:
            race(runners, repeats)
        for runner in runners:
            found = runner.result()
            row = {"arch": arch, "policy": runner.name, "threads": threads, "pairs": repeats}
            row |= {key: found[key] for key in ("ms_per_chunk", "parts", "how", "guided")}
            row["ratios"] = [round(chunk["guided"]["ms"] / chunk["ms"], 3) for chunk in runner.chunks]
            row |= {"engine": engine.described(), **here, "load_average_before": load}
            rows[identity(row)] = row
    write_result(result, [*rows.values()], question="What does a chunk cost that continues the previous one?")
    stdout.print(table([*rows.values()]), markup=False, soft_wrap=True)
    if result == RESULT:
        write_tables()


def identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a row is of: measuring it again replaces it."""
    return row["arch"], row["policy"], row["threads"], row["guided"]["guidance"]


def write_tables() -> None:
    """Write the result's table into the docs."""
    write_between(DOCS, "what guidance costs", table(read_rows(RESULT)))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return times and ratios in Markdown, and which machine they are of."""
    lines = [
        "| network | policy | guidance | plain chunk, ms | guided chunk, ms | × (quartiles) | its denoise steps, × |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        guided, (low, _, high) = row["guided"], quantiles(row["ratios"], n=4)
        policy = row["policy"] if row["policy"] == FLOAT else f"`{row['policy']}`"
        lines.append(
            f"| {NETWORKS.get(row['arch'], row['arch'])} | {policy} | `{guided['guidance']}` "
            f"| {row['ms_per_chunk']['median']:,.0f} | {guided['ms_per_chunk']['median']:,.0f} "
            f"| {guided['ratio']:.2f} ({low:.2f}-{high:.2f}) | {guided['step_ratio']:.2f} |"
        )
    machines = dict.fromkeys(
        f"{MACHINES.get(row['family'], row['family'])} ({row['engine']}), {row['threads']} "
        f"thread{'s' if row['threads'] > 1 else ''}"
        for row in rows
    )
    pairs = " and ".join(
        f"{count} ({NETWORKS.get(arch, arch)})" for arch, count in {row["arch"]: row["pairs"] for row in rows}.items()
    )
    return "\n".join([*lines, "", f"{'; '.join(machines)}. Medians; pairs of chunks: {pairs}."])


if __name__ == "__main__":
    tyro.cli(main)
