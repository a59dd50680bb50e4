"""docs/gpu.md's table of measured cards, from the JSON of each; what nobody measured stands beside its roofline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gate.floors import floor, recipes
from gate.peaks import CARDS

from gpu import record
from gpu.inputs import SHORT
from vlapack.errors import InputError

DOCS = record.ROOT / "docs" / "gpu.md"
MARKER = "measured"
NONE = "not measured"
TARGETS = {
    "RTX 3090": 22,
    "RTX 4090": 14,
    "RTX 5090": 11,
    "A100 80 GB SXM": 13,
    "L4": 28,
    "H100 SXM": 9,
    "H200 SXM": 9,
    "Jetson AGX Orin 64 GB": 75,
    "Jetson Orin Nano 8 GB Super": 170,
    "Jetson Thor T5000": 30,
}
"""Milliseconds that a chunk of `full` is to take, by the names of `gate.peaks`."""
CALLED = {
    "RTX 3090": r"RTX 3090$",
    "RTX 4090": r"RTX 4090$",
    "RTX 5090": r"RTX 5090$",
    "A100 80 GB SXM": r"A100.SXM.*80",
    "L4": r"\bL4$",
    "H100 SXM": r"H100 80GB HBM3",
    "H200 SXM": r"H200$",
    "Jetson Thor T5000": r"Thor",
    "Strix Halo (Radeon 8060S)": r"8060S",
    "MI300X": r"MI300X",
}
"""What drivers call these cards. Every Orin calls itself by the same name: it gets a row of its own."""


def write_tables(results: Path = record.RESULTS) -> None:
    """Write the tables.

    Raises:
        InputError: a result is of a dry run, or damaged.
    """
    from common.results import write_between

    write_between(DOCS, MARKER, text([read(file) for file in sorted(results.glob("gpu-*.json"))]))


def read(file: Path) -> dict[str, Any]:
    """Return a result that may be published.

    Raises:
        InputError: it is of a dry run, or damaged, or something in it was wrong.
    """
    document = record.read(file)
    if document["dry"]:
        raise InputError(f"{file}: a dry run, whose figures mean nothing; remove it")
    cells = (cell for cell in document["cells"] if cell["kind"] == "correct")
    if wrong := [cell["name"] for cell in cells if cell["status"] in ("wrong", "failed")]:
        raise InputError(f"{file}: {', '.join(wrong)}: not right on this card; figures of it are not published")
    return document


def text(documents: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of all cards, and one of the products for each that was measured."""
    left = list(documents)
    lines = [
        "| card | floor of `full`, ms | target, ms | our bf16, ms | `full` at 8 bits, ms | `full`, ms | openpi, ms "
        "| peak of `full`, GB | graph nodes |",
        f"|{'---|' * 9}",
    ]
    measured = []
    for card in CARDS:
        pattern = CALLED.get(card.name)
        mine = [one for one in left if pattern is not None and re.search(pattern, one["card"]["name"])]
        left = [one for one in left if one not in mine]
        target = str(TARGETS.get(card.name, "–"))
        least = f"{floor(card, recipes()['full']):.1f}"
        lines += [_row(card.name, least, target, one) for one in mine or [None]]
        measured += mine
    for one in left:
        lines.append(_row(one["card"]["name"], "–", "–", one))
    return "\n".join([*lines, *(line for one in (*measured, *left) for line in _detail(one))])


def _row(name: str, least: str, target: str, document: Mapping[str, Any] | None) -> str:
    cells = {} if document is None else {cell["name"]: cell for cell in document["cells"] if cell["kind"] == "chunk"}
    bf16, full, full8, openpi = (cells.get(chunk.name) for chunk in SHORT)
    times = " | ".join(_ms(cell) for cell in (bf16, full8, full, openpi))
    peak, nodes = NONE, NONE
    if full is not None and full["status"] == "measured":
        memory = full["memory"]
        peak = f"{max(memory['loading_peak'], memory['running_peak']) / 1e9:.2f} + {memory['context'] / 1e9:.2f}"
        counted = full["nodes"]["counted"]
        nodes = str(counted) if counted is not None else f"{full['nodes']['on_paper']} on paper"
    return f"| {name} | {least} | {target} | {times} | {peak} | {nodes} |"


def _ms(cell: Mapping[str, Any] | None) -> str:
    """Return the median of the replays, and of whole calls in brackets."""
    if cell is None or cell["status"] != "measured":
        return NONE
    eager = "" if cell["how"] == "graph" or "compile" in cell["how"] else f", {cell['how']}"
    replay = cell.get("replay", cell["wall"])["p50"]
    return f"{replay:.2f} ({cell['wall']['p50']:.2f}){eager}"


def _detail(document: Mapping[str, Any]) -> list[str]:
    """Return one card's own tables: chunks, and products in microseconds, cold and in brackets warm."""
    card, state = document["card"], (document["ceilings"] or {}).get("state", {})
    ceilings = document["ceilings"]
    measured = [cell for cell in document["cells"] if cell["status"] == "measured"]
    if not measured or ceilings is None:
        return []
    lines = [
        "",
        f"{card['name']}: driver {card['driver']}, torch {document['torch']}, Triton {document['triton']}, "
        f"{document['date']}, commit {document['commit'][:10]}; power limit {state.get('power_limit_w', 'unknown')} W. "
        f"Reached: {ceilings['bytes_per_s'] / 1e9:.0f} GB/s, {ceilings['int8_ops_per_s'] / 1e12:.0f} TOP/s on int8, "
        f"{ceilings['bf16_ops_per_s'] / 1e12:.0f} TFLOP/s on bf16; floors are at these.",
    ]
    if chunks := [cell for cell in measured if cell["kind"] == "chunk"]:
        lines += ["", "| chunk, ms | replay p50 | p95 | wall p50 | p95 | floor | GB held | how |", f"|{'---|' * 8}"]
        lines += [_chunk(cell) for cell in chunks]
    if products := [cell for cell in measured if cell["kind"] == "product"]:
        names = list(products[0]["contenders"])
        head = f"| product, µs cold (warm), M × N × K | {' | '.join(names)} | floor of W4A8 |"
        lines += ["", head, f"|{'---|' * (len(names) + 2)}", *(_product(cell) for cell in products)]
    return lines


def _chunk(cell: Mapping[str, Any]) -> str:
    replay = cell.get("replay", {"p50": float("nan"), "p95": float("nan")})
    times = " | ".join(f"{of[kind]:.2f}" for of in (replay, cell["wall"]) for kind in ("p50", "p95"))
    least = f"{cell['floor_ms']:.2f}" if "floor_ms" in cell else "–"
    return f"| {cell['name']} | {times} | {least} | {cell['memory']['held'] / 1e9:.2f} | {cell['how']} |"


def _product(cell: Mapping[str, Any]) -> str:
    part, _, _ = cell["name"].partition(" ")
    sizes = " × ".join(str(size) for size in cell["sizes"].values())
    figures = " | ".join(
        f"{1e3 * times['cold']['p50']:.1f} ({1e3 * times['warm']['p50']:.1f})" for times in cell["contenders"].values()
    )
    return f"| {part} {sizes} | {figures} | {1e3 * cell['floor_ms']['W4A8']:.1f} |"
