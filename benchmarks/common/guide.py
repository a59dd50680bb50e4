"""The tables of docs/guide.md and its Chinese twin: the scripts guide's claims beside what is true."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from statistics import fmean, median
from typing import Any

from common.full_size import RESULTS, preset_of, read, sizes
from common.preset_tables import saved
from common.short_tables import in_pairs

EPISODES = RESULTS / "closed_loop" / "episodes.jsonl"
SCRIPTS = {
    "run_simple_w4a8.sh": ("dit-fast", "DiT", 20, "1-2"),
    "run_optimized_duquant.sh": ("dit", "DiT", 20, "2-3"),
    "run_llm_w4a8.sh": ("llm", "LLM", 40, "2-3"),
    "run_full_quantize.sh": ("guide-full", "", 60, "3-5"),
}
"""Script → who played for it in `closed_loop.json`, its part, the guide's saving (%) and minutes per episode."""
TARGETS = {"en": "everything", "zh": "全部"}
PACKED = {
    "run_simple_w4a8.sh": ("denoise",),
    "run_optimized_duquant.sh": ("denoise",),
    "run_llm_w4a8.sh": ("prefix",),
    "run_full_quantize.sh": ("vision", "prefix", "denoise"),
}
"""Script → the parts of a chunk whose layers it packs."""
HEADS = {
    "scripts": {
        "en": "| script | packs | linears | memory saved: guide, measured | error of a chunk | when |",
        "zh": "| 脚本 | 量化目标 | 线性层 | 节省内存：原指南，实测 | 动作块误差 | 适用场景 |",
    },
    "times": {
        "en": "| script | minutes per episode: guide | `tiny-libero`, measured | full-size π0.5, composed |",
        "zh": "| 脚本 | 每个 episode 的分钟数：原指南 | `tiny-libero`，实测 | 全尺寸 π0.5，推算 |",
    },
}
WHEN = {
    "run_simple_w4a8.sh": {"en": "a quick test", "zh": "快速测试"},
    "run_optimized_duquant.sh": {"en": "DiT with permutation and rotation", "zh": "DiT 量化（完整优化）"},
    "run_llm_w4a8.sh": {"en": "**begin here**: most memory for one part", "zh": "**推荐**：单组件节省最多"},
    "run_full_quantize.sh": {"en": "the least memory", "zh": "极限内存节省"},
}
PART_ERRORS = {
    "run_simple_w4a8.sh": "dit-fast",
    "run_optimized_duquant.sh": "dit",
    "run_llm_w4a8.sh": "llm",
    "run_full_quantize.sh": "full",
}
"""Script → the preset with the same layers, whose error at 4 bits `fidelity.json` has."""
TREE = {
    "en": ("vision tower (SigLIP)", "language model (Gemma)", "action expert (DiT)", "projector", "layers", "linears"),
    "zh": ("SigLIP 视觉编码器", "Gemma 语言模型 / LLM", "DiT 动作专家", "投影层", "层", "个线性层"),
}


def tree(language: str) -> str:
    """Return the network's parts and their linears, as the guide draws them."""
    vision, llm, expert, projector, layers, linears = TREE[language]
    count = sizes()["full"]["layers"]
    total = sum(count.values())
    inside = total - count["projector"]
    lines = [
        "PI0Pytorch",
        "├── paligemma_with_expert.paligemma.model",
        f"│   ├── vision_tower: {vision}",
        f"│   │   └── 27 {layers} × 6 = {count['vision']} {linears}",
        f"│   ├── multi_modal_projector: {projector}",
        f"│   │   └── {count['projector']} {linears.removesuffix('s')}",
        f"│   └── language_model: {llm}",
        f"│       └── 18 {layers} × 7 = {count['llm']} {linears}",
        f"└── paligemma_with_expert.gemma_expert.model: {expert}",
        f"    └── 18 {layers} × 7 = {count['expert']} {linears}",
        "",
        f"{inside} + {count['projector']} = {total} {linears}",
    ]
    return "\n".join(["```text", *lines, "```"])


def scripts(language: str) -> str:
    """Return what each script packs, saves and costs in accuracy, in Markdown."""
    lines = [HEADS["scripts"][language], "|---" * 6 + "|"]
    for script, (_, part, promise, _) in SCRIPTS.items():
        count = sum(sizes()[script]["layers"].values())
        lines.append(
            f"| `{script}` | {part or TARGETS[language]} | {count} | ~{promise} %, {saved(script, 1)} "
            f"| {error(PART_ERRORS[script])} | {WHEN[script][language]} |"
        )
    return "\n".join(lines)


def error(preset: str) -> str:
    """Return how far a preset at 4 bits moves the chunks of tiny-libero 1, in percent of the chunk."""
    rows = (row for row in read("fidelity.json")["rows"] if row["method"] == "preset" and row["preset"] == preset)
    full = (row for row in read("fidelity.json")["rows"] if _is_full(row))
    return f"{100 * fmean(row['error'] for row in (full if preset == 'full' else rows)):.1f} %"


def _is_full(row: Mapping[str, Any]) -> bool:
    """Whether a row is the preset `full` at 4 bits as it was measured among the methods."""
    wanted = ("tiny-libero", "hadamard + gptq", 0.0, None, "W4A8")
    return wanted == tuple(row[key] for key in ("target", "method", "smooth", "group", "bits"))


def times(language: str) -> str:
    """Return minutes per episode, in Markdown."""
    played = seconds()
    lines = [HEADS["times"][language], "|---" * 4 + "|"]
    for script, (role, _, _, promise) in SCRIPTS.items():
        measured = f"{played[role] / 60:.1f} ({played[role]:.0f} s)"
        lines.append(f"| `{script}` | ~{promise} | {measured} | {composed(PACKED[script]) / 60:.1f} |")
    return "\n".join(lines)


def episodes() -> Iterator[dict[str, Any]]:
    """Yield the episodes of tiny-libero 1 and its packs."""
    with EPISODES.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def seconds() -> dict[str, float]:
    """Return the median seconds of an episode of tiny-libero 1, by who played."""
    found: dict[str, list[float]] = {}
    for episode in episodes():
        found.setdefault(episode["role"], []).append(episode["seconds"])
    return {role: median(of_role) for role, of_role in found.items()}


def composed(packed: Collection[str]) -> float:
    """Return the median seconds that an episode would take at full size.

    Chunks and the simulator's own time are those of tiny-libero 1, in float; the time of a chunk is put together from
    the parts of the packed and of the float policy.

    Args:
        packed: parts of a chunk whose layers are packed.
    """
    ours, plain = chunk_rows()
    of_chunk = sum((ours if part in packed else plain)["parts"][part] for part in plain["parts"]) / 1e3
    return median(count * of_chunk + own for count, own in float_episodes())


def float_episodes() -> list[tuple[int, float]]:
    """Return the chunks of every episode of tiny-libero 1 in float, and its seconds without them."""
    played = (episode for episode in episodes() if episode["role"] == "baseline")
    return [(len(each["infer_ms"]), each["seconds"] - sum(each["infer_ms"]) / 1e3) for each in played]


def episode() -> str:
    """Return the chunks of an episode, and the simulator's own time."""
    counts, own = zip(*float_episodes(), strict=True)
    return f"{median(counts):.1f} chunks, {median(own):.0f} s of the simulator"


def episode_zh() -> str:
    """Return the same in Chinese."""
    counts, own = zip(*float_episodes(), strict=True)
    return f"{median(counts):.1f} 个动作块，仿真器 {median(own):.0f} s"


def chunk_rows() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return what was measured of full-size π0.5 on a CPU, packed and float."""
    rows = {row["name"]: row for row in read("chunk-avx512vnni.json")["rows"]}
    return rows["full@bfloat16"], rows["float@bfloat16"]


def chunk() -> str:
    """Return what a chunk of full-size π0.5 takes on a CPU, packed and float."""
    packed, plain = chunk_rows()
    return (
        f"{packed['ms_per_chunk']['median'] / 1e3:.1f} s (`{preset_of(packed)}`) / "
        f"{plain['ms_per_chunk']['median'] / 1e3:.1f} s (float)"
    )


def packing() -> str:
    """Return the minutes that packing full-size π0.5 takes: without calibration, and with GPTQ."""
    rows = {row["run"]: row for row in read("quantize_full-avx512vnni.json")["rows"]}
    return f"{rows['weights-only']['seconds'] / 60:.0f} / {rows['gptq']['seconds'] / 60:.0f}"


def compiling(which: str, process: str) -> str:
    """Return the seconds until the first chunk of a compiled tiny-libero 1.

    Args:
        which: `tiny-libero` or its pack.
        process: `first` or `second`.
    """
    (row,) = (row for row in read("compiled-avx512vnni.json")["rows"] if row["policy"] == which)
    return f"{row[process]['ready_seconds']:.0f} s"


def success(policy: str, *, of_float: bool = False) -> str:
    """Return a policy's success in the large run of tiny-libero, or the float policy's in the same pairs."""
    (row,) = (row for row in read("closed_loop_large.json")["rows"] if row["policy"] == policy)
    return f"{100 * in_pairs(row)[of_float]:.1f} %"


LANGUAGES: dict[str, Callable[[str], str]] = {"tree": tree, "scripts": scripts, "times": times}
FIGURES: dict[str, Callable[[], str]] = {
    **{f"guide: {name}, {tongue}": partial(of, tongue) for name, of in LANGUAGES.items() for tongue in ("en", "zh")},
    "guide: chunk": chunk,
    "guide: episode, en": episode,
    "guide: episode, zh": episode_zh,
    "guide: episode, float": lambda: f"{composed(()) / 60:.1f}",
    "guide: packing": packing,
    "compiled, first": partial(compiling, "tiny-libero-full", "first"),
    "compiled, later": partial(compiling, "tiny-libero-full", "second"),
    **{f"success {name}": partial(success, name) for name in ("full", "guide-full")},
    **{f"success of float beside {name}": partial(success, name, of_float=True) for name in ("full", "guide-full")},
}
"""Marker → what it shows."""
