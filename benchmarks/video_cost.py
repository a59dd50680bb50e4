"""What does a video with a picture of every step cost, where no GPU renders?

    python benchmarks/video_cost.py [--steps 60]

The first task of each suite: steps with and without a picture of both cameras, in turns, and then the film of those
pictures. Times are CPU time of all threads: with as many simulators as cores that is also what the clock shows, and
other work on the machine counts only as far as it takes caches and shared cores. The figures go into
docs/evaluation.md.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tyro
from common.results import ROOT, write_result

from vlapack.console import say
from vlapack.evaluate.clock import CONTROL_HZ
from vlapack.evaluate.worker import filming
from vlapack.libero.env import LiberoEnv
from vlapack.libero.suites import simulator

RESULT = ROOT / "benchmarks" / "results" / "video_cost.json"
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


def main(*, steps: int = 60, result: Path = RESULT) -> None:
    """Measure, and write the result.

    Args:
        steps: With a picture, of each suite; as many without.
        result: The JSON file.
    """
    load = round(os.getloadavg()[0], 1)
    rows = [measure(suite, steps) for suite in SUITES]
    facts = {"simulator": simulator(), "load_average_before": load}
    write_result(result, rows, question="What does a picture of a video cost?", **facts)


def measure(suite: str, steps: int) -> dict[str, Any]:
    """Return the milliseconds of a step and of a picture, and the bytes of a picture in a film."""
    scene = LiberoEnv(suite, 0)
    rng = np.random.default_rng(0)
    spent: dict[bool, list[float]] = {False: [], True: []}
    frames = []
    try:
        scene.reset(0)
        for number in range(2 * steps):
            render = number % 2 == 1
            start = time.process_time()
            observation, _ = scene.step(rng.uniform(-0.5, 0.5, 7), render=render)
            spent[render].append(1e3 * (time.process_time() - start))
            if render:
                frames.append(np.hstack([observation["observation/image"], observation["observation/wrist_image"]]))
    finally:
        scene.close()
    film_ms, nbytes = encoded(frames)
    row = {
        "suite": suite,
        "pictures": steps,
        "step_ms": median(spent[False]),
        "picture_ms": median(spent[True]) - median(spent[False]),
        "film_ms": film_ms,
        "film_bytes": nbytes,
    }
    say(f"{suite}: {row['step_ms']:.0f} ms a step, {row['picture_ms']:.0f} ms a picture, {film_ms:.1f} ms to film it")
    return row


def encoded(frames: list[np.ndarray]) -> tuple[float, float]:
    """Return the CPU milliseconds that filming a picture takes, ffmpeg's included, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "film.mp4"
        before = _cpu_seconds()
        with filming(file, CONTROL_HZ) as film:
            for frame in frames:
                film(frame)
        return 1e3 * (_cpu_seconds() - before) / len(frames), file.stat().st_size / len(frames)


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    tyro.cli(main)
