"""What a run of the gate leaves behind: a JSON of every kernel on every card, and docs/gpu.md's tables."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from common.results import ROOT, write_between, write_result

from gate import chunk
from gate.dialects import UNIT
from gate.floors import floor, recipes
from gate.machine_code import MachineCode
from gate.peaks import CARDS
from gate.run import Outcome
from gate.targets import TARGETS, Target

RESULT = ROOT / "benchmarks" / "results" / "gate.json"
DOCS = ROOT / "docs" / "gpu.md"
ISSUED = 4
"""Warp instructions that one multiprocessor of NVIDIA's starts in a clock cycle, one by each of its four schedulers."""


def document(judged: Sequence[Outcome]) -> dict[str, Any]:
    """Return a run as JSON: Triton's version, and one row a kernel and card."""
    import triton

    return {"triton": triton.__version__, "rows": [row(outcome) for outcome in judged]}


def row(outcome: Outcome) -> dict[str, Any]:
    """Return what is kept of one kernel on one card."""
    case, code = outcome.case, outcome.code
    found = {
        "kernel": case.kernel,
        "target": case.target,
        "source": case.source,
        "refused": [{"rule": one.rule, "found": one.found, "allowed": one.allowed} for one in outcome.refused],
    }
    if code is not None:
        found |= dataclasses.asdict(code)
        found["bits_per_unit"] = round(code.bits_per_unit, 3)
        found["issue_ceiling"] = issue_ceiling(code, TARGETS[case.target])
    return found


def issue_ceiling(code: MachineCode, target: Target) -> float | None:
    """Return which part of the tensor cores' peak the main loop can reach, by the instructions it takes for a unit.

    A multiprocessor starts four instructions a cycle, and its tensor cores need so many cycles for a unit: a loop with
    more instructions than fit into them waits for its own unpacking. None: no products, or an unknown rate.
    """
    if not code.loop_units or target.tensor_rate is None:
        return None
    slots = ISSUED * 2 * UNIT / target.tensor_rate
    return round(min(1.0, slots / code.instructions_per_unit), 3)


def recorded_sources(result: Path = RESULT) -> dict[tuple[str, str], str]:
    """Return kernel and target → hash of what the tables were made from; empty without a result."""
    if not result.exists():
        return {}
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    return {(row["kernel"], row["target"]): row["source"] for row in rows}


def write(found: dict[str, Any]) -> None:
    """Write a whole run's JSON, and the tables."""
    write_result(RESULT, found["rows"], triton=found["triton"])
    write_tables()


def write_tables(result: Path = RESULT) -> None:
    """Write the tables into docs/gpu.md: those of the kernels from a result, the others from published peaks."""
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"] if result.exists() else []
    write_between(DOCS, "gate", kernels(rows) if rows else "Not compiled yet: `make gate`.")
    write_between(DOCS, "peaks", peaks())
    write_between(DOCS, "floors", floors())
    write_between(DOCS, "launches", chunk.table())


def kernels(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of kernels: a range over the cards where they differ."""
    lines = [
        "| kernel | cards | registers | shared, KB | tensor cores | bit operations a unit | of peak, at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["kernel"] for row in rows):
        found = [row for row in rows if row["kernel"] == name]
        families = " ".join(sorted({family for row in found for family in row["matrix"]})) or "–"
        bits = _range([row["bits_per_unit"] for row in found], ".1f") if families != "–" else "–"
        lines.append(
            f"| {name} | {_cards(found)} | {_range([row['registers'] for row in found], 'd')} "
            f"| {_range([row['shared'] / 1024 for row in found], '.0f')} | {families} | {bits} | {_reach(found)} |"
        )
    return "\n".join(lines)


def _cards(rows: Sequence[dict[str, Any]]) -> str:
    """Return which targets there are rows for, all of one maker's in a word."""
    left = [row["target"] for row in rows]
    words = []
    for word, backend in (("NVIDIA", "cuda"), ("AMD", "hip")):
        every = [name for name, target in TARGETS.items() if target.backend == backend and not target.assembled_as]
        if set(every) <= set(left):
            words.append(word)
            left = [name for name in left if name not in every]
    return ", ".join([*words, *left])


def _range(values: Sequence[float], form: str) -> str:
    least, most = format(min(values), form), format(max(values), form)
    return least if least == most else f"{least}-{most}"


def _reach(rows: Sequence[dict[str, Any]]) -> str:
    """Return the lowest issue ceiling and where it is."""
    known = {row["target"]: row["issue_ceiling"] for row in rows if row["issue_ceiling"] is not None}
    if not known:
        return "–"
    target = min(known, key=lambda name: known[name])
    return "100 %" if known[target] == 1 else f"{known[target]:.0%} ({target})".replace("%", " %")


def peaks() -> str:
    """Return the table of published ceilings."""
    lines = [
        "| card | target | int8 TOP/s | bf16 TFLOP/s | GB/s | int8 operations a byte | source | numbers read in |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for card in CARDS:
        read = card.read or "from memory, unchecked"
        source = f"{card.source}; {card.note}" if card.note else card.source
        lines.append(
            f"| {card.name} | {card.target} | {card.int8:g} | {card.bf16:g} | {card.memory:g} "
            f"| {1e3 * card.int8 / card.memory:.0f} | {source} | {read} |"
        )
    return "\n".join(lines)


def floors() -> str:
    """Return the table of the least time of a chunk."""
    of = recipes()
    lines = [f"| card | {', ms | '.join(of)}, ms |", f"|---|{'---|' * len(of)}"]
    for card in CARDS:
        found = " | ".join(f"{floor(card, recipe):.1f}" for recipe in of.values())
        lines.append(f"| {card.name} | {found} |")
    return "\n".join(lines)
