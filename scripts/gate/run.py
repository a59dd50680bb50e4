"""One run of the gate: which kernels are compiled for which cards, in worker processes, and what came of it."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate.compiling import compile_to_facts, is_meant_for, specimens
from gate.fingerprint import cache_key, source_key
from gate.machine_code import MachineCode
from gate.rules import Refusal, refusals
from gate.targets import TARGETS
from vlapack.progress import progress


@dataclass(frozen=True)
class Case:
    """One kernel with its tile for one card, and the hash of what it is made from."""

    kernel: str
    target: str
    source: str


@dataclass(frozen=True)
class Outcome:
    """What came of a case: its code, or why there is none; and which demands it does not meet."""

    case: Case
    code: MachineCode | None
    refused: tuple[Refusal, ...]


def cases(targets: Iterable[str], match: str = "") -> list[Case]:
    """Return every specimen whose name contains `match` for every target that it is meant for."""
    return [
        Case(name, target, source_key(specimen, TARGETS[target]))
        for target in targets
        for name, specimen in specimens().items()
        if match in name and is_meant_for(specimen, TARGETS[target])
    ]


def changed(found: Iterable[Case], recorded: Mapping[tuple[str, str], str]) -> list[Case]:
    """Return the cases that differ from a record, kernel and target → hash, or that it does not have."""
    return [case for case in found if recorded.get((case.kernel, case.target)) != case.source]


def outcomes(wanted: list[Case], cache: Path, workers: int) -> list[Outcome]:
    """Compile what the cache does not have, and judge all; in the order of `wanted`."""
    facts = dict(_compiled(wanted, cache, workers))
    return [_judged(case, facts[case]) for case in wanted]


def _compiled(wanted: list[Case], cache: Path, workers: int) -> Iterator[tuple[Case, dict[str, Any]]]:
    cache.mkdir(parents=True, exist_ok=True)
    os.environ["TRITON_CACHE_DIR"] = str(cache.resolve() / "triton")
    files = {case: cache / f"{cache_key(case.source)}.json" for case in wanted}
    todo = []
    for case, file in files.items():
        if file.exists():
            yield case, json.loads(file.read_text(encoding="utf-8"))
        else:
            todo.append(case)
    if not todo:
        return
    # Threads would not do: Triton compiles under Python's lock, and a compiler that crashes would end the gate.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool,
        progress("compile kernels", len(wanted), done=len(wanted) - len(todo)) as advance,
    ):
        running = {pool.submit(compile_to_facts, case.kernel, case.target): case for case in todo}
        for future in as_completed(running):
            case = running[future]
            found = future.result()
            if "error" not in found:  # the machine may have been at fault
                files[case].write_text(json.dumps(found), encoding="utf-8")
            advance(f"{case.kernel} for {case.target}")
            yield case, found


def _judged(case: Case, facts: dict[str, Any]) -> Outcome:
    if "error" in facts:
        return Outcome(case, None, (Refusal(case.kernel, case.target, "compiles", facts["error"], "code"),))
    code = MachineCode(**{**facts, "products": tuple(facts["products"])})
    return Outcome(case, code, tuple(refusals(specimens()[case.kernel], TARGETS[case.target], code)))
