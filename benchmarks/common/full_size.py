"""π0.5 at full size: what a chunk, a pack and a tuned recipe take, from the results of several machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from common.results import ROOT

RESULTS = ROOT / "benchmarks" / "results"
NOT_MEASURED = "not measured"
MACHINES = {"26/2": "Zen 5", "25/17": "Zen 4", "25/1": "Zen 3", "6/167": "Intel Xeon with AMX"}
"""CPU family and model, as Linux reports them → what people call them."""
ENGINES = {"avx512vnni": "AVX-512 VNNI", "avx2": "AVX2"}
BOTH = tuple(ENGINES)
"""The CPUs on which what takes long was measured, by what their kernels multiply with."""


def read(name: str) -> dict[str, Any]:
    """Return a result."""
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def machine(document: Mapping[str, Any]) -> str:
    """Return the CPU and its cores in a few words."""
    here = document["machine"]
    name = MACHINES.get(here["family"], here["cpu"])
    return f"{name}, {here['cores']} cores"


def sizes() -> dict[str, dict[str, Any]]:
    """Return what each recipe saves and holds, by its name (benchmarks/sizes.py)."""
    return {row["name"]: row for row in read("sizes.json")["rows"]}


def preset_of(row: Mapping[str, Any]) -> str:
    """Return which of today's presets a measured pack was: results are older than the presets' 8-bit layers.

    Args:
        row: of a result that measured `full` or `everything`, with `weight_bytes`.
    """
    name = str(row["name"]).partition("@")[0]
    if name not in ("full", "everything"):
        return name
    counted = sizes()
    uniform, mixed = counted["full-w4"]["held_bytes"], counted["full"]["held_bytes"]
    if abs(row["weight_bytes"] - mixed) < abs(row["weight_bytes"] - uniform):
        return name
    return "full-w4" if name == "full" else "everything, 4 bits throughout"


def chunks(name: str = "chunk-avx512vnni.json") -> str:
    """Return what a chunk takes: openpi's class where it took part, our float runtime and packs, in Markdown."""
    document = read(name)
    rows = {row["name"]: row for row in document["rows"]}
    first, called = ("openpi@bfloat16", "openpi in bf16") if "openpi@bfloat16" in rows else ("float@float32", "float")
    base = rows[first]["ms_per_chunk"]["median"]
    lines = [
        f"| | seconds a chunk (min-max) | vision, prefix, denoise | as fast as {called} | memory of the process "
        "| loads in |",
        "|---" * 6 + "|",
    ]
    for row in rows.values():
        time, parts = row["ms_per_chunk"], row["parts"]
        of_parts = ", ".join(f"{parts[part] / 1e3:.1f}" for part in ("vision", "prefix", "denoise")) if parts else ""
        lines.append(
            f"| {contender(row)} | {_seconds(time)} | {of_parts} | {base / time['median']:.2f} × "
            f"| {row['rss_bytes'] / 1e9:.2f} GB | {row['load_seconds']:.1f} s |"
        )
    return "\n".join(lines)


def contender(row: Mapping[str, Any]) -> str:
    """Return what was measured, in words."""
    name, _, dtype = str(row["name"]).partition("@")
    short = {"bfloat16": "bf16", "float32": "fp32"}[dtype]
    if name == "openpi":
        return f"openpi's class, {short}"
    if name == "float":
        return f"our float runtime, {short}"
    return f"packed `{preset_of(row)}`, {short}".replace(", 4 bits throughout`", "` at 4 bits throughout")


def _seconds(time: Mapping[str, float]) -> str:
    return f"{time['median'] / 1e3:.1f} ({time['min'] / 1e3:.1f}-{time['max'] / 1e3:.1f})"


def chunk_floor(name: str = "chunk-avx512vnni.json") -> str:
    """Return how near to the processor's limit the packs come, in a sentence."""
    document = read(name)
    floor = document["floor"]
    rows = {row["name"]: row for row in document["rows"]}
    times = ", ".join(f"{contender(rows[name])}, takes {times:.2f} ×" for name, times in floor["times_floor"].items())
    return (
        f"A chunk needs {floor['ops'] / 1e12:.2f} T operations, {floor['seconds']:.2f} s at the "
        f"{floor['peak_ops_per_s'] / 1e9:.0f} G/s that both cores reached on registers alone: {times} that."
    )


def small_chunk(name: str = "chunk-avx512vnni.json") -> str:
    """Return what the same comparison says of tiny-libero."""
    times = {row["name"]: row["ms_per_chunk"]["median"] for row in read(name)["small"]["rows"]}
    return f"{times['float']:.0f} ms for the float policy, {times['full']:.0f} ms for its pack"


def amx_chunks() -> str:
    """Return what `vlapack bench` measured on a CPU with AMX, in Markdown."""
    lines = ["| threads | packed, s a chunk | float bf16, s a chunk | as fast |", "|---" * 4 + "|"]
    for run in read("bench-amx.json")["runs"]:
        packed, plain = (run[role]["ms_per_chunk"]["median"] / 1e3 for role in ("policy", "baseline"))
        lines.append(
            f"| {run['threads']} | {packed:.2f} (`{preset_of(run['policy'])}`) | {plain:.2f} | {run['ratio']:.2f} × |"
        )
    return "\n".join(lines)


def quantizing() -> str:
    """Return how long packing takes, and how much memory, in Markdown."""
    documents = [read(f"quantize_full-{isa}.json") for isa in BOTH]
    runs = [_rows(document) for document in documents]
    lines = [f"| | | {_machines(documents)} |", "|---" * 4 + "|"]
    observations = [str(of_machine["gptq"]["observations"]) for of_machine in runs]
    lines.append(f"| observations that calibrate | | {' | '.join(observations)} |")
    for run, label in (
        ("weights-only", "415 layers, `--weights-only --rounding rtn`"),
        ("calibrated", "415 layers, `--rounding rtn`"),
        ("gptq", "253 layers, GPTQ (`--preset llm-dit`)"),
        ("max-error", "every layer measured (`--max-error 1%`)"),
    ):
        rows = [of_machine.get(run) for of_machine in runs]
        if any(rows):
            lines.append(_line(label, "minutes", rows, "seconds", 60))
            if any(row and row.get("calibration_seconds") for row in rows):
                lines.append(_line("", "of them calibrating", rows, "calibration_seconds", 60))
            lines.append(_line("", "GB at most", rows, "peak_rss_bytes", 1e9))
    return "\n".join(lines)


def _line(label: str, what: str, rows: Sequence[Mapping[str, Any] | None], field: str, unit: float) -> str:
    cells = (f"{row[field] / unit:.1f}{row['where']}" if row and field in row else NOT_MEASURED for row in rows)
    return f"| {label} | {what} | {' | '.join(cells)} |"


def _rows(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of a result by their run; `where` names the CPU of one that is not the document's."""
    here = document["machine"]["family"]
    return {
        row["run"]: {**row, "where": "" if (family := row.get("family", here)) == here else f" ({MACHINES[family]})"}
        for row in document["rows"]
    }


def tuning() -> str:
    """Return how long tuning takes, and what it chose, in Markdown."""
    documents = [read(f"tune_full-{isa}.json") for isa in BOTH]
    lines = [f"| minutes | {_machines(documents)} |", "|---" * 3 + "|"]
    steps = {
        "packing": "calibrating, packing every layer at 4 and 8 bits",
        "measuring": "measuring six observations",
        "comparing": "comparing with simpler recipes",
    }
    for step, label in steps.items():
        lines.append(f"| {label} | {_minutes(documents, step)} |")
    rest = [each["seconds"]["together"] - sum(each["seconds"][step] for step in steps) for each in documents]
    lines.append(f"| reading, loading | {' | '.join(f'{seconds / 60:.1f}' for seconds in rest)} |")
    together = (f"**{each['seconds']['together'] / 60:.1f}**" for each in documents)
    lines.append(f"| together | {' | '.join(together)} |")
    chosen = documents[0]["document"]
    best = next(each for each in chosen["candidates"] if each["name"] == "everything")
    layers = chosen["layers"]
    lines += [
        "",
        f"The allocation fills {chosen['bytes'] / 1e9:.4f} of the {chosen['budget'] / 1e9:.1f} GB. On "
        f"{machine(documents[0]).partition(',')[0]} it keeps {layers['4']} layers at 4 bits, {layers['8']} at 8 and "
        f"{layers['16']} as they were. It moves the chunk by {100 * chosen['error']['measured']:.2f} %; `everything`, "
        f"the best simple recipe within the budget, by {100 * best['measured']:.2f} %.",
    ]
    return "\n".join(lines)


def _machines(documents: Sequence[Mapping[str, Any]]) -> str:
    return " | ".join(f"{machine(each)}, {ENGINES[isa]}" for each, isa in zip(documents, BOTH, strict=True))


def _minutes(documents: Sequence[Mapping[str, Any]], step: str) -> str:
    return " | ".join(f"{document['seconds'][step] / 60:.1f}" for document in documents)


FIGURES = {
    "chunks": chunks,
    "chunk floor": chunk_floor,
    "chunks, AVX2": lambda: chunks("chunk-avx2.json"),
    "chunk floor, AVX2": lambda: chunk_floor("chunk-avx2.json"),
    "chunk of tiny-libero, AVX2": lambda: small_chunk("chunk-avx2.json"),
    "chunk of tiny-libero": small_chunk,
    "chunks with AMX": amx_chunks,
    "quantizing at full size": quantizing,
    "tuning at full size": tuning,
}
"""Marker → what it shows."""
