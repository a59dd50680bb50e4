"""What `vlapack bench` says: the JSON document, and the same as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.table import Table

from vlapack.bench.floor import operations, peak
from vlapack.bench.measurement import FUSED
from vlapack.bench.race import Runner
from vlapack.console import emit_table, emit_text
from vlapack.machine.cpu import describe_machine
from vlapack.machine.gpu import CPU
from vlapack.ops import engine
from vlapack.pi0.config import Pi0Config

PHASES = ("vision", "prefix", "denoise")
USUAL = {"eager", FUSED}
"""How float policies and packs run on CPUs, which goes without saying."""


def document(
    runners: Sequence[Runner], *, dtype: torch.dtype, threads: int, device: torch.device = CPU
) -> dict[str, Any]:
    """Put together what was measured, the policy first; and measure what this CPU or GPU could do.

    Args:
        runners: the policy, and the baseline if there is one, after their race.
        dtype: of their arithmetic.
        threads: how many worked.
        device: where they are.
    """
    policy = runners[0].loaded
    architecture = Pi0Config.from_dict(policy["architecture"])
    needed = operations(architecture, policy["cameras"], policy["prompt_tokens"])
    reached, with_what = peak(None if policy["packed"] else dtype, threads, device)
    results = [runner.result() for runner in runners]
    milliseconds = [result["ms_per_chunk"]["median"] for result in results]
    return {
        "cpu": describe_machine()["cpu"],
        "isa": _isa(device) or torch.backends.cpu.get_cpu_capability(),
        "engine": engine.active() if device.type == "cpu" else engine.described(device),
        "threads": threads,
        "tokens": {key: policy[key] for key in ("cameras", "prompt_tokens", "prefix_tokens")},
        "policy": results[0],
        "baseline": results[1] if len(results) > 1 else None,
        "ratio": milliseconds[1] / milliseconds[0] if len(results) > 1 else None,
        "floor": {
            "ops": needed,
            "peak_ops_per_s": reached,
            "peak_of": with_what,
            "seconds": needed / reached,
            "times_floor": milliseconds[0] / 1e3 / (needed / reached),
        },
    }


def _isa(device: torch.device) -> str | None:
    """Return the compiled engine's instructions, where that engine runs."""
    return engine.kernels.isa() if device.type == "cpu" and engine.active() == "cpu" else None


def print_document(found: Mapping[str, Any]) -> None:
    """Print tables of times and bytes, and the floor in words."""
    tokens = found["tokens"]
    table = Table(
        title=f"{found['cpu']} ({found['isa']}), engine {found['engine']}, {found['threads']} threads; "
        f"{tokens['cameras']} cameras, {tokens['prompt_tokens']} prompt tokens, {tokens['prefix_tokens']} in all",
        caption="milliseconds per chunk, of its parts, and of the first one; megabytes",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for column in ("ms", "min-max", *PHASES, "first", "load s", "MB held", "mapped", "RSS", "peak RSS"):
        table.add_column(column, justify="right", no_wrap=True)
    results = [result for result in (found["policy"], found["baseline"]) if result is not None]
    for result in results:
        times = result["ms_per_chunk"]
        parts = [result["parts"].get(part) for part in PHASES]
        table.add_row(
            result["name"],
            _number(times["median"]),
            f"{_number(times['min'])}-{_number(times['max'])}",
            *(_number(value) for value in (*parts, result["first_chunk_ms"])),
            f"{result['load_seconds']:.1f}",
            *(_number(result[key] / 1e6) for key in ("held_bytes", "mapped_bytes", "rss_bytes", "peak_rss_bytes")),
        )
    emit_table(table)
    for line in _sentences(found, results):
        emit_text(line)


def _sentences(found: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        f"{result['name']} holds " + ", ".join(f"{part} {nbytes / 1e6:.1f} MB" for part, nbytes in parts.items())
        for result in results
        if (parts := result["bytes_by_part"])
    ]
    lines += [_guided(result) for result in results if result["guided"] is not None]
    ran = dict.fromkeys(result["how"] for result in results)
    if not ran.keys() <= USUAL:
        lines.append(", ".join(f"{result['name']} ran as {result['how']}" for result in results))
    floor = found["floor"]
    lines.append(
        f"a chunk needs {floor['ops'] / 1e9:.3g} G operations, at {floor['peak_ops_per_s'] / 1e9:.3g} G/s "
        f"({floor['peak_of']}) {floor['seconds'] * 1e3:.3g} ms: the policy takes {floor['times_floor']:.2f} × that"
    )
    if found["ratio"] is not None:
        lines.append(f"{found['policy']['name']} answers {found['ratio']:.2f} × as fast as {found['baseline']['name']}")
    return lines


def _guided(result: Mapping[str, Any]) -> str:
    """Say what guidance costs, and how the guided chunks ran where plain ones ran otherwise."""
    guided = result["guided"]
    said = (
        f"a chunk of {result['name']} guided by {guided['guidance']} takes "
        f"{_number(guided['ms_per_chunk']['median'])} ms, {guided['ratio']:.2f} × a plain one"
    )
    if guided["step_ratio"] is not None:
        said += f"; its denoise steps take {guided['step_ratio']:.2f} × as long"
    if guided["how"] != result["how"]:
        said += f". It ran as {guided['how']}, the plain one as {result['how']}"
    return said


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
