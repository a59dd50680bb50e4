"""How benchmarks/rivals.py and a worker talk: a line of JSON each way, requests on stdin and answers on stdout.

{"do": "build", "case": {…}, "folder": "…", "threads": 1, "cold": 67108864}
{"do": "run", "contender": "…", "calls": 3, "threads": 1}
{"do": "output", "contender": "…", "file": "….npy"}
{"do": "drop"}
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rival_cases import Case


class Task(NamedTuple):
    """What to build: the case, the folder of its arrays, threads, and sets of weights to walk through."""

    case: Case
    folder: Path
    threads: int
    copies: int


class Contender(NamedTuple):
    """A way to compute a case.

    Attributes:
        run: computes it once, with the weights of this turn.
        output: returns what it computes from `x` with the first weights, [M, N] or [M, width].
        says: how it rounds weights and activations, in words.
    """

    run: Callable[[int], object]
    output: Callable[[], np.ndarray]
    says: str


Make = Callable[[Task], Mapping[str, Callable[[], Contender]]]


def serve(make: Make, versions: Mapping[str, str], use: Callable[[int], object] = lambda threads: None) -> None:
    """Answer until stdin ends.

    Args:
        make: the contenders of a task, each built when it is called.
        versions: of the packages that compute.
        use: compute with so many threads; of tools that need not be built again for it.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the tools print
    answers.write(json.dumps({"versions": dict(versions)}) + "\n")
    built: dict[str, Contender] = {}
    turns: dict[str, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if request["do"] == "build":
            case = Case(**request["case"])
            task = Task(case, Path(request["folder"]), request["threads"], case.copies(request["cold"]))
            answer["contenders"] = {}
            for name, build in make(task).items():
                try:
                    built[name] = build()
                    built[name].run(0)
                except Exception as error:  # whatever a tool cannot do is a row of the result
                    built.pop(name, None)
                    answer["contenders"][name] = {"error": f"{type(error).__name__}: {error}"[:500]}
                else:
                    answer["contenders"][name] = {"says": built[name].says}
        elif request["do"] == "run":
            name = request["contender"]
            use(request["threads"])
            first = turns.get(name, 0)
            turns[name] = first + request["calls"] + 1
            answer = _timed(built[name].run, first, request["calls"])
        elif request["do"] == "output":
            np.save(request["file"], np.asarray(built[request["contender"]].output(), dtype=np.float32))
        else:
            built.clear()
            turns.clear()
            gc.collect()
        answers.write(json.dumps(answer) + "\n")


def _timed(run: Callable[[int], object], first: int, calls: int) -> dict[str, list[float]]:
    """Seconds and processor seconds of each call, behind one that does not count: the way back in."""
    run(first)
    wall, processor = [], []
    for turn in range(first + 1, first + calls + 1):
        begin, worked = time.perf_counter(), time.process_time()
        run(turn)
        wall.append(time.perf_counter() - begin)
        processor.append(time.process_time() - worked)
    return {"wall": wall, "cpu": processor}
