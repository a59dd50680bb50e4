"""What was measured on single machines: layers, waiting threads, compiling, serving."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from common.full_size import MACHINES, read

FEW_ROWS = ((2048, 2048), (1024, 4096), (16384, 2048), (1152, 4304))
AMX_SHAPES = (
    (544, 2048, 16384),
    (544, 16384, 2048),
    (544, 2048, 2048),
    (544, 1024, 4096),
    (256, 2048, 2048),
    (50, 2048, 2048),
    (50, 1024, 4096),
    (10, 2048, 16384),
    (10, 1024, 4096),
    (1, 2048, 16384),
)
VNNI_SHAPES = (
    (544, 2048, 16384),
    (544, 16384, 2048),
    (544, 2048, 2048),
    (10, 2048, 16384),
    (10, 1024, 4096),
    (1, 2048, 16384),
)
GROUP_SHAPES = (
    (544, 2048, 2048),
    (544, 16384, 2048),
    (544, 1152, 4304),
    (10, 1024, 2560),
    (10, 1024, 4096),
    (10, 4096, 1024),
)
Shape = tuple[int, int, int]


def cells(document: Mapping[str, Any], op: str = "int_linear") -> dict[Shape, dict[str, Mapping[str, Any]]]:
    """Return the rows of a result of linear.py: (M, K, N) → who computed it → the row; cold weights only."""
    found: dict[Shape, dict[str, Mapping[str, Any]]] = {}
    for row in document["rows"]:
        if row["op"] in (op, "linear") and row["cold"]:
            found.setdefault((row["M"], row["K"], row["N"]), {})[row["engine"]] = row
    return found


def layers(name: str, shapes: Sequence[Shape]) -> str:
    """Return one layer's time, and how near to the machine's limits it is, in Markdown."""
    document = read(name)
    measured = cells(document)
    lines = [
        "| M | K, N | ms | GOP/s | of peak | of stream | torch bf16, fp32, int8 (ms) | × float |",
        "|---" * 8 + "|",
    ]
    for shape in shapes:
        by, (rows, inputs, outputs) = measured[shape], shape
        ours = by["cpu"]
        torchs = ", ".join(_ms(by[kind]["seconds"]) if (kind := f"torch {dtype}") in by else "–" for dtype in DTYPES)
        lines.append(
            f"| {rows} | {inputs}, {outputs} | {_ms(ours['seconds'])} "
            f"| {2e-9 * rows * inputs * outputs / ours['seconds']:,.0f} | {_percent(ours['share_of_peak'])} "
            f"| {_percent(ours['share_of_stream'])} | {torchs} | {ours['vs_float']:.1f} |"
        )
    return "\n".join([*lines, "", ceilings(document)])


DTYPES = ("bf16", "fp32", "int8")


def ceilings(document: Mapping[str, Any]) -> str:
    """Return the limits that were measured in the same run, in a sentence."""
    threads = document["threads"]
    return (
        f"{MACHINES[document['machine']['family']]}, {threads} thread{'s' if threads > 1 else ''}, torch "
        f"{document['torch'].partition('+')[0]}. Limits in the same run: {document['peak_ops_per_s'] / 1e9:,.0f} GOP/s "
        f"on registers, {document['stream_bytes_per_s'] / 1e9:.1f} GB/s read."
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds >= 1 else f"{1e3 * seconds:.3g}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def few_rows() -> str:
    """Return where tiles begin to pay off, in Markdown."""
    measured = cells(read("linear-amx-few-rows.json"))
    counts = sorted({rows for rows, _, _ in measured})
    lines = [f"| K, N | {' | '.join(f'M = {rows}' for rows in counts)} |", "|---" * (len(counts) + 1) + "|"]
    for inputs, outputs in FEW_ROWS:
        found = (measured[rows, inputs, outputs] for rows in counts)
        pairs = (
            " / ".join(f"{1e3 * by[who]['processor_seconds']:.2f}" for who in ("cpu", "avx512vnni")) for by in found
        )
        lines.append(f"| {inputs}, {outputs} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def groups(name: str) -> str:
    """Return what a weight scale for every few channels costs, in Markdown."""
    measured, sizes = cells(read(name)), (128, 64, 32)
    lines = [
        f"| M | K, N | one scale per output, ms | {' | '.join(f'groups of {size}' for size in sizes)} |",
        "|---" * (3 + len(sizes)) + "|",
    ]
    for shape in GROUP_SHAPES:
        by, (rows, inputs, outputs) = measured[shape], shape
        whole = by["cpu"]["processor_seconds"]
        more = (by[f"cpu, groups of {size}"]["processor_seconds"] / whole - 1 for size in sizes)
        lines.append(
            f"| {rows} | {inputs}, {outputs} | {_ms(whole)} | {' | '.join(f'{100 * each:+.0f} %' for each in more)} |"
        )
    return "\n".join(lines)


def waiting() -> str:
    """Return what the order of two imports costs, in Markdown."""
    lines = ["| | vlapack imported first | torch imported first |", "|---" * 3 + "|"]
    for row in read("waiting_threads.json")["rows"]:
        count = row["busy_processes"]
        label = "no busy loop" if not count else f"{'a' if count == 1 else count} busy loop on one core"
        spans = (_span(row[order]) for order in ("vlapack_first", "torch_first"))
        lines.append(f"| {label} | {' | '.join(spans)} |")
    return "\n".join(lines)


def _span(time: Mapping[str, float]) -> str:
    return f"{time['median']:.0f} ({time['quartile_low']:.0f}-{time['quartile_high']:.0f})"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


COMPILED = {
    "avx512vnni": {"tiny-libero": "version 1, float", "tiny-libero-full": "version 1, `full-w4`"},
    "avx2": {
        "tiny-libero": "`tiny-libero`, float",
        "full": "`tiny-libero`, `full`",
        "pi05_libero float": "π0.5, float",
        "pi05_libero full": "π0.5, `full`",
    },
}
"""Instruction set → row of the result → what the docs call it."""


def compiled(isa: str) -> str:
    """Return what `torch.compile` costs and gains, in Markdown."""
    rows = {row["policy"]: row for row in read(f"compiled-{isa}.json")["rows"]}
    heads = ("eager", "compiled, first process", "compiled, every later process")
    lines = [f"| first chunk, the next ones | {' | '.join(heads)} |", "|---" * 4 + "|"]
    for policy, label in COMPILED[isa].items():
        found = (rows[policy][how] for how in ("eager", "first", "second"))
        times = (f"{_seconds(each['ready_seconds'])} s, {each['ms_per_chunk']['median']:.0f} ms" for each in found)
        lines.append(f"| {label} | {' | '.join(times)} |")
    return "\n".join(lines)


def served() -> str:
    """Return how many answers a server gives, in a sentence."""
    found = read("serve.json")
    crowd, worst = found["crowd"], max(_worst(found))
    return (
        f"one robot gets {found['one_robot']['requests_per_second']:.1f} answers a second, eight together "
        f"{found['eight_robots']['requests_per_second']:.1f}, {found['eight_over_one']:.1f} times as many. Of "
        f"{crowd['robots']} robots asking {crowd['requests'] // crowd['robots']} times each, {crowd['lost'] or 'none'} "
        f"of {crowd['requests']} requests was lost and {crowd['mixed_up'] or 'none'} mixed up. No action differed by "
        f"more than {_power(worst)}. The answers took {crowd['ms']['p50'] / 1e3:.1f} s in the median and "
        f"{crowd['ms']['p99'] / 1e3:.1f} s at p99, {crowd['requests_per_second']:.0f} a second"
    )


def _worst(found: Mapping[str, Any]) -> Iterable[float]:
    yield found["crowd"]["worst_difference"]
    for load in (found["one_robot"], found["eight_robots"]):
        yield from (turn["worst_difference"] for turn in load["turns"])


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")


def strangers() -> str:
    """Return what hostile clients cost a robot, in Markdown."""
    lines = [
        "| machine | robot's p99 without, with | growth | `/healthz` p99 without, with | over 100 ms "
        "| slowest without, with |",
        "|---" * 6 + "|",
    ]
    for label, name in (("quiet", "serve_hostile.json"), ("busy with other work", "serve_hostile-busy.json")):
        found = read(name)
        quiet, attacked = found["quiet"], found["attacked"]
        lines.append(
            f"| {label} ({MACHINES[found['machine']['family']]}) "
            f"| {quiet['robot_ms']['p99']:.0f}, {attacked['robot_ms']['p99']:.0f} ms | {found['p99_growth_ms']:.0f} ms "
            f"| {quiet['healthz_ms']['p99']:.0f}, {attacked['healthz_ms']['p99']:.0f} ms "
            f"| {found['healthz_over_100_ms']} of {attacked['healthz_ms']['count']} "
            f"| {quiet['healthz_ms']['max']:.0f}, {attacked['healthz_ms']['max']:.0f} ms |"
        )
    return "\n".join(lines)


def activation(name: str) -> str:
    """Return what the activation step takes beside the product that follows it, in words."""
    document = read(name)
    (step,) = (row for row in document["rows"] if row["op"] == "quantize_activation" and row["M"] == 544)
    share = f"{100 * step['share_of_product']:.0f} % of the square product that follows it"
    return f"{1e3 * step['seconds']:.1f} ms at M = 544, {share}"


def attention(name: str) -> str:
    """Return what attention takes beside torch's, in Markdown: the least processor time of a call, one thread."""
    document = read(name)
    lines = [
        "| part | heads, queries, keys, D | ours, ms | torch's two products | torch's fused | as fast |",
        "|---" * 6 + "|",
    ]
    times: dict[tuple[Any, ...], dict[bool, Mapping[str, Any]]] = {}
    for row in document["rows"]:
        if row["threads"] == 1:
            shape = tuple(row[field] for field in ("part", "groups", "rows", "keys", "width"))
            times.setdefault(shape, {})[row["cold"]] = row
    for (part, *sizes), of in times.items():
        cells = (
            ", ".join(_ms(of[cold][way]["processor_seconds"]) for cold in (True, False))
            for way in ("cpu", "torch products", "torch fused")
        )
        ratios = (of[cold]["torch products"]["processor_seconds"] / of[cold]["cpu"]["processor_seconds"] for cold in of)
        gain = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {part} | {', '.join(map(str, sizes))} | {' | '.join(cells)} | {gain} × |")
    machine = f"{MACHINES[document['machine']['family']]}, torch {document['torch'].partition('+')[0]}"
    return "\n".join([*lines, "", f"{machine}; cold, warm: the least processor time of a call with one thread."])


def attention_errors(name: str) -> str:
    """Return how far attention is from float64 and from torch's, in words."""
    rows = read(name)["rows"]

    def worst(pair: str, kind: str) -> str:
        return f"{100 * max(row[pair][kind] for row in rows):.2g} %"

    parts = (
        (pair, f"{worst(pair, 'largest')} at most and {worst(pair, 'mean')} in the mean")
        for pair in ("cpu from float64", "torch products from float64", "cpu from torch products")
    )
    ours, torchs, between = (text for _, text in parts)
    return f"{ours}; torch's two products are off by {torchs}, and differ from ours by {between}"


FIGURES = {
    "attention, AVX-512": lambda: attention("attention-avx512vnni.json"),
    "attention errors": lambda: attention_errors("attention-avx512vnni.json"),
    "layers, AVX-512": lambda: layers("linear-avx512vnni.json", VNNI_SHAPES),
    "layers, AVX2": lambda: layers("linear-avx2.json", VNNI_SHAPES),
    "layers, AMX": lambda: layers("linear-amx.json", AMX_SHAPES),
    "layers, AMX, few rows": few_rows,
    "groups, AVX-512": lambda: groups("linear-avx512vnni-groups.json"),
    "groups, AVX2": lambda: groups("linear-avx2.json"),
    "activation step, AVX-512": lambda: activation("linear-avx512vnni.json"),
    "activation step, AMX": lambda: activation("linear-amx.json"),
    "waiting threads": waiting,
    "compiled": partial(compiled, "avx512vnni"),
    "compiled avx2": partial(compiled, "avx2"),
    "served": served,
    "strangers": strangers,
    "NaN check": lambda: f"{100 * (read('loading.json')['wall_ratio'] - 1):.0f} %",
}
"""Marker → what it shows."""
