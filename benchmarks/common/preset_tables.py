"""What presets save and how far they move the actions: tables, and the figures that sentences quote."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from statistics import fmean
from typing import Any

from common.full_size import read, sizes

PARTS = {"vision": "vision", "projector": "projector", "llm": "LLM", "expert": "expert", "adarms": "adaRMS"}
REMARKS = {
    "dit-fast": "; no permutation, no rotation",
    "llm-dit": "; all but the vision tower",
    "attention": "; q, k, v and o of every part",
    "mlp": "; fc1, fc2, gate, up and down of every part",
    "everything": ", and the embedding's rows at 8",
}
SCRIPTS = {
    "dit-fast": "run_simple_w4a8.sh",
    "dit-w4": "run_optimized_duquant.sh",
    "llm-w4": "run_llm_w4a8.sh",
    "full-w4": "run_full_quantize.sh",
}
"""Preset → the guide's script that selects the same layers at the same bits."""
PROMISED = {"dit-w4": ("DiT", 20), "llm-w4": ("LLM", 40), "full-w4": ("all", 60)}
"""Preset → what the guide calls it, and the saving that it promises, in percent."""
SHORT = {"dit": "`dit`, `dit-fast`", "llm": "`llm`", "full": "`full`"}


def presets() -> str:
    """Return every preset: what it touches and what that saves, in Markdown."""
    lines = ["| preset | the guide's script | layers | saved | held |", "|---" * 5 + "|"]
    for name, row in sizes().items():
        if name.endswith(".sh") or "," in name:
            continue
        script = f"`{SCRIPTS[name]}`" if name in SCRIPTS else "–"
        lines.append(
            f"| `{name}` | {script} | {layers(row)}{REMARKS.get(name, '')} | {saved(name, 1)} | {held(name)} |"
        )
    return "\n".join(lines)


def layers(row: Mapping[str, Any]) -> str:
    """Return how many linears a recipe packs, by part."""
    of_parts = ", ".join(f"{PARTS.get(part, part)} {count}" for part, count in row["layers"].items())
    total = sum(row["layers"].values())
    text = of_parts if len(row["layers"]) == 1 else f"{total}: {of_parts}"
    return f"{text}, of which {row['at_8_bits']} at 8 bits" if row["at_8_bits"] else text


def short_presets() -> str:
    """Return the three presets to begin with, in Markdown."""
    lines = ["| preset | packs | of openpi's bytes it saves | a running policy holds |", "|---" * 4 + "|"]
    for name, label in SHORT.items():
        row = sizes()[name]
        of_parts = ", ".join(PARTS.get(part, part) for part in row["layers"])
        count = sum(row["layers"].values())
        lines.append(f"| {label} | {of_parts}: {count} linears | {saved(name)} | {held(name)} |")
    return "\n".join(lines)


def promised() -> str:
    """Return what the guide promises beside what is saved, in Markdown."""
    lines = ["| | the guide says | our preset at 4 bits | the guide's own recipe |", "|---" * 4 + "|"]
    for name, (label, promise) in PROMISED.items():
        lines.append(f"| {label} | ~{promise} % | {saved(name, 1)} | {saved(SCRIPTS[name], 1)} |")
    return "\n".join(lines)


def saved(name: str, digits: int = 0) -> str:
    """Return what share of openpi's bytes a recipe saves."""
    return f"{100 * sizes()[name]['saved_fraction']:.{digits}f} %"


def held(name: str) -> str:
    """Return what a running policy holds in memory."""
    return f"{sizes()[name]['held_bytes'] / 1e9:.2f} GB"


def mapped(name: str) -> str:
    """Return the embedding's rows, which stay in the file."""
    return f"{sizes()[name]['mapped_bytes'] / 1e9:.2f} GB"


def more(name: str, than: str) -> str:
    """Return how much more memory one recipe takes than another."""
    found = sizes()
    return f"{100 * (found[name]['held_bytes'] / found[than]['held_bytes'] - 1):.1f} %"


def deviation(field: str = "median") -> dict[str, float]:
    """Return how far each mix of bits moves the chunks of tiny-libero: mix → mean over the calibration seeds."""
    rows = [row for row in read("presets.json")["rows"] if row["target"] == "tiny-libero"]
    mixes = dict.fromkeys(row["mix"] for row in rows)
    return {mix: fmean(row[field] for row in rows if row["mix"] == mix) for mix in mixes}


def error(target: str, method: str, field: str = "error", bits: str = "W4A8", smooth: float = 0.0) -> str:
    """Return one method's error in percent, as the long tables have it."""
    found = [
        row[field]
        for row in read("fidelity.json")["rows"]
        if (row["target"], row["method"], row["bits"], row["smooth"]) == (target, method, bits, smooth)
        and row["group"] is None
        and row["preset"] in (None, "full")
    ]
    return f"{100 * fmean(found):.3g} %"


NAMES = ("dit-fast", "dit", "llm", "full", "dit-w4", "llm-w4", "full-w4", "quantvla", "everything", "full, 8 bits")
METHODS = ("hadamard", "hadamard + gptq")
FIGURES = {
    "presets": presets,
    "presets, short": short_presets,
    "promised": promised,
    "parent": lambda: f"{read('sizes.json')['bytes'] / 1e9:.2f} GB",
    "mapped": partial(mapped, "full"),
    "mapped, everything": partial(mapped, "everything"),
    "full over full-w4": partial(more, "full", "full-w4"),
    **{f"saved {name}": partial(saved, name) for name in (*NAMES, *SCRIPTS.values())},
    **{f"held {name}": partial(held, name) for name in NAMES},
    **{
        f"error {target}, {method}": partial(error, target, method)
        for target in ("minilm", "synthetic")
        for method in METHODS
    },
    **{f"median tiny-libero, {method}": partial(error, "tiny-libero", method, "median") for method in METHODS},
}
"""Marker → what it shows."""
