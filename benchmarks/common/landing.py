"""The README's tables: what is proven of vlapack, and what others offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import full_size, preset_tables
from common.full_size import MACHINES, NOT_MEASURED, RESULTS, read

COLUMNS = {
    "weights": "π0.5's weights in memory",
    "hardware": "runs on",
    "time": "an action chunk, as published",
    "success": "success on LIBERO, as published",
    "better": "better at",
}


def proven() -> str:
    """Return what was measured, and what was not, in Markdown."""
    chunk = read("chunk-avx512vnni.json")
    rows = {full_size.preset_of(row): row for row in chunk["rows"] if row["name"].endswith("@bfloat16")}
    best = "full" if "full" in rows else "full-w4"
    openpi, plain, packed = rows["openpi"], rows["float"], rows[best]
    recipes = full_size.sizes()
    zen = f"two cores of {MACHINES[chunk['machine']['family']]}"
    lines = [
        "| question | float | packed | measured on |",
        "|---|---|---|---|",
        f"| weights that a running π0.5 holds | openpi {openpi['weight_bytes'] / 1e9:.2f} GB, "
        f"vlapack {plain['weight_bytes'] / 1e9:.2f} GB | {recipes['full']['held_bytes'] / 1e9:.2f} GB (`full`), "
        f"{recipes['full-w4']['held_bytes'] / 1e9:.2f} GB (`full-w4`) | every tensor, counted |",
        f"| memory of the process | openpi {openpi['rss_bytes'] / 1e9:.2f} GB, "
        f"vlapack {plain['rss_bytes'] / 1e9:.2f} GB "
        f"| {packed['rss_bytes'] / 1e9:.2f} GB (`{best}`) | {zen} |",
        f"| a chunk of π0.5 on a CPU | openpi {_seconds(openpi)}, vlapack {_seconds(plain)} "
        f"| {_seconds(packed)} (`{best}`) | {zen}, bf16 |",
        _amx(),
        f"| a chunk of π0.5 on a GPU | {_gpu()} | {_gpu()} | [GPUs](docs/gpu.md) |",
        _deviation(),
        _success(),
        f"| success of π0.5 itself on LIBERO | {NOT_MEASURED} | {NOT_MEASURED} | |",
    ]
    return "\n".join(lines)


def _seconds(row: Mapping[str, Any]) -> str:
    return f"{row['ms_per_chunk']['median'] / 1e3:.1f} s"


def _amx() -> str:
    run = max(read("bench-amx.json")["runs"], key=lambda run: int(run["threads"]))
    packed, plain = run["policy"], run["baseline"]
    return (
        f"| the same with AMX | vlapack {plain['ms_per_chunk']['median'] / 1e3:.2f} s "
        f"| {packed['ms_per_chunk']['median'] / 1e3:.2f} s (`{full_size.preset_of(packed)}`) "
        f"| two cores of an Intel Xeon, bf16 |"
    )


def _gpu() -> str:
    return "[measured](docs/gpu.md#measuring-your-card)" if cards() else NOT_MEASURED


def cards() -> list[str]:
    """Return the names of the GPUs that were measured."""
    return [read(file.name)["card"]["name"] for file in sorted(RESULTS.glob("gpu-*.json"))]


def on_cards() -> str:
    """Return what is known of the GPU kernels, as the end of a sentence."""
    return f"measured on {', '.join(found)}" if (found := cards()) else "compiled and checked, not yet run on a card"


def _deviation() -> str:
    of_bits = preset_tables.deviation()
    return (
        f"| how far a chunk moves, in standard deviations of the actions (median) | – "
        f"| {of_bits['full']:.2%} (`full`), {of_bits['W8']:.2%} (8 bits) "
        f"| `tiny-libero`, observations never calibrated on |"
    ).replace("%", " %")


def _success() -> str:
    played = {row["policy"]: row for row in read("closed_loop_large.json")["rows"]}
    floor, packed = played["float"], played["full"]
    noise = played["noise-floor"]
    return (
        f"| success in LIBERO, pairs of episodes | {_rate(floor)} of {floor['episodes']}; with other noise "
        f"{_rate(noise)} "
        f"| {_rate(packed)} of {packed['episodes']} (`full`); a drop of more than "
        f"{100 * packed['drop_upper95']:.1f} points is excluded (95 %) | `tiny-libero`; the run continues |"
    )


def _rate(row: Mapping[str, Any]) -> str:
    return f"{100 * row['success_rate']:.1f} %"


def beside_peers() -> str:
    """Return what others say of themselves, each with its source, in Markdown."""
    document = read("peers.json")
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in document["rows"]:
        cells = row["cells"]
        shown = (f"[{cell['text']}]({cell['source']})" if (cell := cells[key]) else "not stated" for key in COLUMNS)
        lines.append(f"| {row['who']} | {' | '.join(shown)} |")
    return "\n".join(
        [*lines, "", f"Read on {document['date']}; each cell links its source, at the version that was read."]
    )


FIGURES = {"proven": proven, "peers": beside_peers, "GPUs": on_cards}
"""Marker → what it shows."""
