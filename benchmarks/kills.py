"""Does an evaluation that is killed lose, double or change an episode?

    python benchmarks/kills.py [--moments 30]

Kills, by SIGKILL at a random moment of a run each time, the process that writes, one that simulates, or a node of a Ray
cluster (three nodes on this machine, with Ray installed). Then the same command runs until it is done. Compared with a
run that nobody disturbed: every episode is there once, and ended alike. Simulator and policy are stubs whose episodes
depend on the noise, and take a third of a second.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import torch
import tyro
from common.results import ROOT, write_between, write_result
from common.stub import walk

from vlapack.console import say
from vlapack.errors import WorkError
from vlapack.evaluate.contender import Contender
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.run import evaluate

RESULT = Path(__file__).parent / "results" / "kills.json"
DOCS = ROOT / "docs" / "sweeps.md"
Victim = Literal["driver", "worker", "node"]
TASKS, STARTS, NOISES, ROLES = 2, 4, 2, ("baseline", "policy")
EPISODES = TASKS * STARTS * NOISES * len(ROLES)
SECONDS = 600.0
"""For what takes seconds on a machine that is not starved."""


class Drunkard:
    """Walks as its noise says."""

    def infer(self, observation: dict[str, Any], /, *, generator: torch.Generator | None = None) -> dict[str, Any]:
        return {"actions": 0.15 + 0.2 * torch.randn(10, 7, generator=generator).numpy()}

    def held_bytes(self) -> int:
        return 0

    def mapped_bytes(self) -> int:
        return 0


def play(out: Path, ray: str | None = None) -> None:
    """Play all of it, or what is missing."""
    # Not this script's own classes, where it is the main module: nodes import them by their module's name.
    import kills

    entries = [Contender(role, role, {"weights": "stub"}, 0, kills.Drunkard) for role in ROLES]
    plan = Plan(
        tasks=tuple(("stub", task) for task in range(TASKS)),
        init_states=tuple(range(STARTS)),
        noise_seeds=NOISES,
        policies={entry.role: entry.identity for entry in entries},
    )
    workers = 2 if ray is None else 1
    evaluate(plan, entries, out, workers=workers, videos=False, factory=walk, ray=ray)


@dataclass
class Run:
    """A process that plays, started by the same command every time."""

    out: Path
    ray: str | None

    def start(self) -> subprocess.Popen[bytes]:
        code = f"import kills; kills.play(kills.Path({str(self.out)!r}), {self.ray!r})"
        return subprocess.Popen([sys.executable, "-c", code], env=environment(), stderr=subprocess.DEVNULL)

    def finish(self) -> int:
        """Give the command until it succeeds; return how often."""
        for times in range(1, 4):
            if self.start().wait(SECONDS) == 0:
                return times
        raise WorkError(f"{self.out}: three runs in a row did not come to their end")

    def lines(self) -> list[dict[str, Any]]:
        path = self.out / "episodes.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def environment() -> dict[str, str]:
    """Return the variables of processes that import this module."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def told(lines: list[dict[str, Any]]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Return how each episode ended."""
    return {
        (row["role"], row["task_id"], row["init_state"], row.get("noise", 0)): (row["success"], row["steps"])
        for row in lines
    }


def kill_once(victim: Victim, seed: int, folder: Path, expected: dict[Any, Any], cluster: Any = None) -> dict[str, Any]:
    """Kill at a random moment, finish, and compare.

    Args:
        victim: what is killed.
        seed: decides the moment.
        folder: for this run's files.
        expected: how each episode ends undisturbed (`told`).
        cluster: Ray's, for a node.
    """
    draw = random.Random(seed)
    after, pause = draw.randrange(EPISODES - 2), draw.uniform(0, 0.4)
    run = Run(folder / f"{victim}-{seed}", None if cluster is None else cluster.address)
    node = None if cluster is None else cluster.add_node(num_cpus=1, object_store_memory=10**8)
    process = run.start()
    deadline = time.monotonic() + SECONDS
    while len(run.lines()) < after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(pause)
    recorded = len(run.lines())
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
    elif victim == "worker":
        kill_a_worker(process.pid, draw)
    else:
        cluster.remove_node(node, allow_graceful=False)
    ended = process.wait(SECONDS)
    times = 1 if ended == 0 else 1 + run.finish()
    lines = run.lines()
    found = told(lines)
    return {
        "victim": victim,
        "recorded_before": recorded,
        "runs": times,
        "lines": len(lines),
        "lost": len(expected.keys() - found.keys()),
        "doubled": len(lines) - len(found),
        "changed": sum(found[key] != end for key, end in expected.items() if key in found),
    }


def kill_a_worker(pid: int, draw: random.Random) -> None:
    """Kill one of the simulators that a process has started, as soon as there is one."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
            if workers := [int(child) for child, command in commands.items() if b"spawn_main" in command]:
                os.kill(draw.choice(workers), signal.SIGKILL)
                return
        time.sleep(0.02)


@contextlib.contextmanager
def three_nodes() -> Iterator[Any]:
    """Start a Ray cluster with two nodes; the third one is made for each run, to be killed."""
    from ray.cluster_utils import Cluster

    os.environ.update(environment())
    here = {"num_cpus": 1, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=here)
    try:
        cluster.add_node(**here)
        yield cluster
    finally:
        cluster.shutdown()


def kill_all(victims: list[Victim], folder: Path) -> Iterator[dict[str, Any]]:
    """Kill once for each of the victims; the same folder must not be used twice."""
    whole = Run(folder / "whole", None)
    whole.finish()
    expected = told(whole.lines())
    if len(expected) != EPISODES or len(set(expected.values())) < 5:
        raise WorkError(f"the undisturbed run has {len(expected)} episodes with too few different ends")
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(three_nodes()) if "node" in victims else None
        for seed, victim in enumerate(victims):
            yield kill_once(victim, seed, folder, expected, cluster if victim == "node" else None)


def main(moments: int = 30, *, result: Path = RESULT) -> int:
    """Kill at so many moments, and write the result.

    Args:
        moments: In all; victims take turns.
        result: The JSON file.
    """
    victims: list[Victim] = ["driver", "worker"]
    if importlib.util.find_spec("ray") is None:
        say("no Ray here: nodes are left out (pip install '.[ray]')")
    else:
        victims.append("node")
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    rows: list[dict[str, Any]] = []
    try:
        for row in kill_all([victims[number % len(victims)] for number in range(moments)], folder):
            say(json.dumps(row))
            rows.append(row)
            totals = {key: sum(row[key] for row in rows) for key in ("lost", "doubled", "changed")}
            question = "Does an evaluation that is killed lose, double or change an episode?"
            write_result(result, rows, question=question, moments=len(rows), episodes=EPISODES, **totals)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if result == RESULT:
        write_tables()
    return 1 if any(totals.values()) else 0


def write_tables() -> None:
    """Write what was found into the docs."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    names = {"driver": "the process that writes", "worker": "a simulator", "node": "a node of a Ray cluster"}
    lines = ["| killed | times | episodes lost | played twice | ended otherwise |", "|---|---|---|---|---|"]
    for victim, name in names.items():
        rows = [row for row in found["rows"] if row["victim"] == victim]
        sums = [sum(row[key] for row in rows) for key in ("lost", "doubled", "changed")]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(map(str, sums))} |")
    write_between(DOCS, "kills", "\n".join(lines))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
