"""How fast are π0.5's products and layers here, against what else runs integers on a CPU, and how exact is each?

    python benchmarks/rivals.py [--rounds 7] [--tools openvino,onnxruntime,onednn,zentorch,ggml] [--cases expert]

OpenVINO, onnxruntime, oneDNN (through torch), zentorch and ggml each run in an environment of their own, which is made
once, from PyPI, with the versions in common/rival_tools.py. A worker (rival_workers) builds each case as its tool's own
converter would: int8 or int4 weights, and activations rounded to int8 as it runs. Layers run in stacks, as in a
network, and every weight is read from memory: a stack, or the copies that a contender walks through, fill twice the
last cache, 64 MB at least.

The contenders take turns: ours, a rival, ours, the next rival. Each turn has a call that does not count. *Times ours*
is the median over the rounds of one turn's median over that of our turn just before. Errors are those of the first
call, from the float64 result of the float weights. With `--vla-cpp` and `--vla-weights` (vla.cpp's `vla-bench`, which
PyPI does not have, and a GGUF of π0.5) whole chunks are compared, too. The result goes into results/rivals-<isa>.json,
and `scripts/fill_docs.py` puts it into docs/kernels.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import numpy as np
import torch
import tyro
from common.exact_layers import exact, relative_error
from common.results import ROOT, isa, write_result
from common.rival_tools import OURS, TOOLS, WORKERS, Worker, environment, stop

sys.path.insert(0, str(WORKERS))
from rival_cases import Case, draw, layers, products

from vlapack.console import say
from vlapack.errors import InputError, WorkError

CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
LEAST_COLD = 64 << 20
PAUSE = 0.02
"""Seconds between two turns: idle threads of the one before have stopped spinning by then."""
MOST_CALLS = 50
Turn = dict[str, list[float]]


def main(
    *,
    tools: str = ",".join(name for name in TOOLS if name != OURS),
    cases: str = "",
    threads: str = "1,2",
    rounds: int = 7,
    seconds: float = 0.1,
    work: Path = ROOT / "outputs" / "rivals",
    torch_index: str = "",
    vla_cpp: Path | None = None,
    vla_weights: Path | None = None,
    result: Path | None = None,
) -> None:
    """Measure.

    Args:
        tools: Whom to compare with.
        cases: A regular expression that the cases' names match; all by default.
        threads: How many, one after the other.
        rounds: In each of which every rival has a turn, and ours one before it.
        seconds: A turn, about; two calls at least.
        work: Where environments (2 GB) and drawn weights (1 GB) are kept.
        torch_index: Where torch's wheels come from; PyTorch's CPU index saves gigabytes where the default is CUDA's.
        vla_cpp: vla.cpp's `vla-bench`.
        vla_weights: A GGUF of π0.5 for it.
        result: The JSON file. Default: benchmarks/results/rivals-<isa>.json.
    """
    if unknown := [name for name in tools.split(",") if name not in TOOLS or name == OURS]:
        raise InputError(
            f"there is no tool {unknown[0]!r}; there are {', '.join(name for name in TOOLS if name != OURS)}"
        )
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; at least one is needed")
    chosen = [case for case in (*products(), *layers()) if re.search(cases, case.name)]
    counts = [int(count) for count in threads.split(",")]
    facts: dict[str, Any] = {"rounds": rounds, "cold_bytes": _cold(), "versions": {}, "missing": {}}
    pythons = {OURS: environment(OURS, work)}
    for name in tools.split(","):
        try:
            pythons[name] = environment(name, work, torch_index)
        except WorkError as error:
            facts["missing"][name] = str(error)
            say(f"{name}: {error}")
    target = result or Path(__file__).parent / "results" / f"rivals-{isa()}.json"
    rows: list[dict[str, Any]] = []
    contest = Contest(pythons, counts, work)
    try:
        for case in chosen:
            rows += contest.rows(case, rounds, seconds)
            facts["versions"] = contest.versions
            write_result(target, rows, **facts)
    finally:
        contest.stop()
    if vla_cpp is not None:
        if vla_weights is None:
            raise InputError("vla_cpp needs weights: pass vla_weights, a GGUF of π0.5")
        facts["chunks"] = [_chunks(vla_cpp, vla_weights, count, rounds) for count in counts]
        write_result(target, rows, **facts)


def _cold() -> int:
    """Bytes of weights to walk through: twice the last cache."""
    cache = int(CACHE.read_text().strip().removesuffix("K")) << 10 if CACHE.exists() else 0
    return max(LEAST_COLD, 2 * cache)


class Contest:
    """All tools' processes, and one case after the other.

    Args:
        pythons: tool → the Python of its environment.
        threads: how many, one after the other.
        work: where drawn weights are kept.

    Attributes:
        versions: tool → of its packages.
    """

    def __init__(self, pythons: dict[str, Path], threads: Sequence[int], work: Path) -> None:
        self._threads, self.versions = threads, {}
        # What is drawn depends on nothing but this file.
        self._drawn = work / "drawn" / hashlib.sha256((WORKERS / "rival_cases.py").read_bytes()).hexdigest()[:12]
        self._workers: dict[tuple[str, int], Worker] = {}
        for name, python in pythons.items():
            for count in [max(threads)] if name == OURS else threads:
                self._workers[name, count] = worker = Worker(name, python, count)
                self.versions[name] = worker.versions

    def stop(self) -> None:
        """End the processes."""
        stop(list(self._workers.values()))

    def rows(self, case: Case, rounds: int, seconds: float) -> list[dict[str, Any]]:
        """Measure a case: a row for each contender and number of threads."""
        folder, wanted = self._prepared(case)
        rows = []
        ours = self._workers[OURS, max(self._threads)]
        of_ours = self._built(ours, case, folder, wanted)
        for count in self._threads:
            rivals = [worker for (name, of), worker in self._workers.items() if name != OURS and of == count]
            built = [(ours, contender, about) for contender, about in of_ours.items()]
            for worker in rivals:
                found = self._built(worker, case, folder, wanted)
                built += [(worker, contender, about) for contender, about in found.items()]
            runners = [(worker, contender) for worker, contender, about in built if "failed" not in about]
            times = _take_turns(runners, count, rounds, seconds)
            for worker, contender, about in built:
                measured = times.get(contender, {})
                per_layer = {
                    key: value / (1 if key.startswith("times") else case.layers) for key, value in measured.items()
                }
                shape = {"case": case.name, "part": case.part, "kind": case.kind, "times_in_layer": case.times}
                rows.append(
                    {**shape, "threads": count, "tool": worker.name, "contender": contender, **about, **per_layer}
                )
            for worker in rivals:
                worker.ask(do="drop")
            said = ", ".join(f"{name} {one['times_ours_wall']:.2f}" for name, one in times.items() if name != OURS)
            say(f"{case.name}, {count} threads: {1e3 * times[OURS]['wall'] / case.layers:.3g} ms; times ours: {said}")
        ours.ask(do="drop")
        return rows

    def _prepared(self, case: Case) -> tuple[Path, torch.Tensor]:
        """The folder of a case's weights and input, and its exact result."""
        folder = self._drawn / re.sub(r"\W+", "-", case.name)
        file = folder.with_suffix(".npy")
        if not file.exists():
            say(f"{case.name}: drawing weights, computing in float64")
            if not folder.exists():
                draw(case, folder)
            np.save(file, exact(case, folder).numpy())
        return folder, torch.from_numpy(np.load(file))

    def _built(self, worker: Worker, case: Case, folder: Path, wanted: torch.Tensor) -> dict[str, dict[str, Any]]:
        """Have a case built: contender → what it says of itself, and its error, or why it cannot."""
        answer = worker.ask(do="build", case=case.to_dict(), folder=str(folder), threads=worker.threads, cold=_cold())
        found = {}
        for contender, about in answer["contenders"].items():
            if "error" in about:
                say(f"{contender}, {case.name}: {about['error']}")
                found[contender] = {"failed": about["error"]}
                continue
            file = self._drawn / "output.npy"
            worker.ask(do="output", contender=contender, file=str(file))
            error = relative_error(torch.from_numpy(np.load(file)), wanted, case)
            found[contender] = {"says": about["says"], "relative_error": error}
        return found


def _take_turns(
    runners: Sequence[tuple[Worker, str]], threads: int, rounds: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Contender → its times, in seconds, and how many times ours they are; ours, the first, has a turn before each."""
    base, *others = runners
    calls: dict[str, int] = {}

    def turn(runner: tuple[Worker, str]) -> Turn:
        worker, contender = runner
        time.sleep(PAUSE)
        found: Turn = worker.ask(do="run", contender=contender, calls=calls.get(contender, 2), threads=threads)
        return found

    for runner in runners:
        calls[runner[1]] = max(2, min(MOST_CALLS, round(seconds / min(turn(runner)["wall"]))))
    seen: dict[str, Turn] = defaultdict(lambda: {"wall": [], "cpu": []})
    ratios: dict[str, Turn] = defaultdict(lambda: {"wall": [], "cpu": []})
    for _ in range(rounds):
        for other in others:
            first, second = turn(base), turn(other)
            for clock in ("wall", "cpu"):
                seen[base[1]][clock] += first[clock]
                seen[other[1]][clock] += second[clock]
                ratios[other[1]][clock].append(statistics.median(second[clock]) / statistics.median(first[clock]))
    found = {}
    for name, clocks in seen.items():
        found[name] = {clock: statistics.median(times) for clock, times in clocks.items()}
        found[name]["least_cpu"] = min(clocks["cpu"])
        for clock, one in ratios.get(name, {}).items():
            found[name][f"times_ours_{clock}"] = statistics.median(one)
    return found


def _chunks(binary: Path, weights: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Whole chunks of two pictures and 32 tokens; processes take turns on as many cores as threads. Medians in ms."""
    cores = set(sorted(os.sched_getaffinity(0))[:threads])
    words = ["bench", "--arch", "pi05_libero", "--policy", "full", "--dtype", "bfloat16", "--json"]
    ours = [sys.executable, "-m", "vlapack.cli", *words, "--threads", str(threads), "--repeats", "3"]
    theirs = [str(binary), "--ckpt", str(weights), "--images", "2", "--tokens", "32", "--markdown"]
    theirs += ["--warmup", "1", "--reps", "3"]
    found: dict[str, list[float]] = {OURS: [], "vla.cpp": []}

    def output(command: Sequence[str]) -> str:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # what is started inherits it
        try:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        finally:
            os.sched_setaffinity(0, before)
        return done.stdout

    for number in range(rounds):
        say(f"chunks, {threads} threads: round {number + 1}")
        found[OURS].append(json.loads(output(ours))["policy"]["ms_per_chunk"]["median"])
        # | label | views | side | tokens | min | p50 | p90 | vision |
        found["vla.cpp"].append(float(output(theirs).strip().splitlines()[-1].split("|")[6]))
    medians = {name: statistics.median(times) for name, times in found.items()}
    return {"threads": threads, "weights": weights.name, **medians}


if __name__ == "__main__":
    tyro.cli(main)
