"""Contenders that take turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

A_TURN = 4
"""Calls of a contender before the next has its turn."""
Run = Callable[[int], object]
"""What is measured; it is given the number of its call, to take the next of several inputs."""


def take_turns(runs: Mapping[str, Run], seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """The median and the least processor time of each, which runs a few times in its turn; the first is a way back in.

    The contender before has thrown interpreter and libraries out of the caches: 0.1-0.2 ms for whoever comes next.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    processor = dict.fromkeys(runs, float("inf"))
    start, turn = time.perf_counter(), 0
    while turn < 2 or time.perf_counter() - start < seconds * len(runs):
        for name, run in runs.items():
            run(turn * A_TURN)
            for call in range(1, A_TURN):
                begin, worked = time.perf_counter(), time.process_time()
                run(turn * A_TURN + call)
                times[name].append(time.perf_counter() - begin)
                processor[name] = min(processor[name], time.process_time() - worked)
        turn += 1
    return {name: statistics.median(found) for name, found in times.items()}, processor
