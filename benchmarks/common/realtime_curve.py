"""Success against latency: what the episodes of benchmarks/realtime.py say, as rows, a table and a picture."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from common.episodes import BASELINE, Episode, pairs, read
from common.full_size import MACHINES
from common.results import ROOT, write_between

from vlapack.drawing.figure import GRID, MUTED, SERIES, Frame, file
from vlapack.evaluate.statistics import Paired, drop_upper95, wilson

RESULT = ROOT / "benchmarks" / "results" / "realtime.json"
LARGE = RESULT.with_name("closed_loop_large.json")
DOCS = ROOT / "docs" / "realtime.md"
PICTURE = ROOT / "docs" / "pictures" / "realtime.svg"
FLOATING, PACK = "float", "full"
MODES = {"rtc": "joined (rtc)", "async": "jumps (async)", "wait": "holds still (wait)"}
COLORS = dict(zip(MODES, (SERIES[2], SERIES[5], SERIES[6]), strict=True))
STEP_MS = 50
"""Milliseconds of a control step at LIBERO's 20 Hz."""
CURVES = "lerobot"
"""The guidance of the curves: the default."""
JUMPS = {"float": "float", "full": "`full`"}
AT = 4
"""Steps of latency at which guidances are compared."""
OURS = {"float@bfloat16": "float, bf16", "full@bfloat16": "`full`, bf16"}
THEIRS = re.compile(r"([\d.]+) ms on (?:an |a )?([\w ]+)")
"""A time in peers.json."""
PLACE = ("mode", "latency", "drift", "guidance", "execution_horizon")
"""What tells a point from the others."""
COMPARED = (0, 2, 4)
"""Latencies under real-time chunking at which the pack is compared with its parent."""

Rows = Sequence[Mapping[str, Any]]


def rows(folder: Path, points: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each policy at each point that was played.

    Args:
        folder: of the points' folders.
        points: name → its `mode`, `latency`, `drift`, `guidance` and `execution_horizon`.
    """
    found = []
    for name, point in points.items():
        played = {role: list(read(folder / name, role)) for role in (BASELINE, PACK)}
        place = {key: getattr(point, key) for key in PLACE}
        for role, episodes in played.items():
            if episodes:
                against = () if role == BASELINE else pairs(episodes, played[BASELINE])
                named = FLOATING if role == BASELINE else role
                found.append({**place, "policy": named, **_counted(episodes), **_compared(against)})
    return found


def _counted(episodes: Sequence[Episode]) -> dict[str, Any]:
    episodes = list({episode.place: episode for episode in reversed(episodes)}.values())  # two machines played some
    won = sum(episode.success for episode in episodes)
    jumps = [episode.more[2:] for episode in episodes if len(episode.more) > 2]
    return {
        "episodes": len(episodes),
        "success_rate": won / len(episodes),
        "ci95": list(wilson(won, len(episodes))),
        "steps": fmean(episode.steps for episode in episodes),
        "chunks": fmean(episode.more[0] for episode in episodes),
        "held": sum(episode.more[1] for episode in episodes) / sum(episode.steps for episode in episodes),
        "changes": sum(len(seams) for seams, _ in jumps),
        "seam95": _point95([one for seams, _ in jumps for one in seams]),
        "gap95": _point95([one for _, gaps in jumps for one in gaps]),
    }


def _point95(thousandths: Sequence[int]) -> float | None:
    return float(np.percentile(thousandths, 95)) / 1000 if thousandths else None


def _compared(both: Sequence[tuple[Episode, Episode]]) -> dict[str, Any]:
    if not both:
        return {}
    compared = [(pack.place[:2], pack.success, parent.success) for pack, parent in both]
    paired = Paired.of((pack, parent) for _, pack, parent in compared)
    low, high = paired.difference_interval()
    return {
        "pairs": paired.episodes,
        "discordant": paired.only_policy + paired.only_baseline,
        "p_value": paired.p_value,
        "drop": 0.0 - paired.difference,
        "drop_ci95": [-high, -low],
        "drop_upper95": drop_upper95(compared),
    }


def write_tables() -> None:
    """Write the tables into the docs."""
    found = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    write_between(DOCS, "success against latency", curve_table(of_curves(found)))
    write_between(DOCS, "pack against float", paired_table(of_curves(found)))
    write_between(DOCS, "how far it jumps", jump_table(found))
    write_between(DOCS, "on that axis", hardware_table())


def write_picture() -> None:
    """Draw the curves."""
    PICTURE.write_text(drawn(of_curves(json.loads(RESULT.read_text(encoding="utf-8"))["rows"])), encoding="utf-8")


def of_curves(found: Rows) -> Rows:
    """Leave out the ways to join chunks that are only compared by how far a robot jumps."""
    return [row for row in found if row["guidance"] == CURVES and row["execution_horizon"] is None]


def points(found: Rows, policy: str, mode: str, drift: bool) -> list[Mapping[str, Any]]:
    """Return one curve, in the order of latency; without a point at 0 it begins where time stands still."""
    chosen = [row for row in found if row["policy"] == policy and bool(row["drift"]) == drift]
    own = [row for row in chosen if row["mode"] == mode]
    if own and all(row["latency"] for row in own):
        own += [row for row in chosen if row["mode"] == "sync-free"]
    return sorted(own, key=lambda row: int(row["latency"]))


def curve_table(found: Rows) -> str:
    """Return success at every point."""
    lines = [
        "Success of the float policy and of its pack; 95 % intervals are in the picture. "
        "*Holds*: share of the control steps in which the robot had no action. *Jump*: 95 % point of the distance "
        "between the action that the old chunk had next and the new chunk's, in LIBERO's action units.",
        "",
        "| target | mode | steps late | ms, 20 Hz | float | `full` | episodes | steps | holds | jump: float | `full` |",
        "|" + "---|" * 11,
    ]
    for drift in (False, True):
        for mode in ("sync-free", *MODES):
            own = [row for row in found if row["mode"] == mode and bool(row["drift"]) == drift]
            for latency in sorted({row["latency"] for row in own}):
                at = {row["policy"]: row for row in own if row["latency"] == latency}
                if len(at) == 2:
                    lines.append(_line(at[FLOATING], at[PACK]))
    return "\n".join(lines)


def _line(floating: Mapping[str, Any], packed: Mapping[str, Any]) -> str:
    target = f"{floating['drift']:g} m/s" if floating["drift"] else "stands still"
    cells = (
        target,
        f"`{floating['mode']}`",
        str(floating["latency"]),
        str(50 * floating["latency"]),
        f"{100 * floating['success_rate']:.1f} %",
        f"{100 * packed['success_rate']:.1f} %",
        str(packed["episodes"]),
        f"{packed['steps']:.0f}",
        f"{100 * packed['held']:.0f} %",
        *("" if row["gap95"] is None else f"{row['gap95']:.2f}" for row in (floating, packed)),
    )
    return f"| {' | '.join(cells)} |"


def paired_table(found: Rows) -> str:
    """Return the pack against its parent where both are joined to the last chunk, with the noise floor below."""
    lines = [
        "| steps late | pairs | float | `full` | disagree | *p* | drop, points | 95 % interval | drop at most |",
        "|" + "---|" * 9,
    ]
    for latency in COMPARED:
        at = {row["policy"]: row for row in found if (row["mode"], row["latency"], row["drift"]) == ("rtc", latency, 0)}
        if len(at) == 2:
            packed = at[PACK]
            low, high = packed["drop_ci95"]
            lines.append(
                f"| {latency} | {packed['pairs']} | {100 * at[FLOATING]['success_rate']:.1f} % "
                f"| {100 * packed['success_rate']:.1f} % | {packed['discordant']} | {packed['p_value']:.3f} "
                f"| {100 * packed['drop']:+.1f} | {100 * low:+.1f} to {100 * high:+.1f} "
                f"| {100 * packed['drop_upper95']:.1f} |"
            )
    if len(lines) == 2:
        return "Not measured yet."
    floor = json.loads(LARGE.read_text(encoding="utf-8"))["rows"][0]["noise_floor"]
    share = floor["discordant"] / floor["episodes"]
    lines += [
        "",
        "The noise floor beside it: where time stands still, the float policy with other noise disagrees with itself "
        f"in {floor['discordant']} of {floor['episodes']} pairs ({100 * share:.1f} %).",
    ]
    return "\n".join(lines)


def jump_table(found: Rows) -> str:
    """Return how far a robot jumps where chunks change, by mode and guidance."""
    own = [row for row in found if row["latency"] == AT and not row["drift"] and row["mode"] in ("rtc", "async")]
    if not any(row["mode"] == "async" for row in own):
        return "Not measured yet."
    lines = [
        "| | policy | from the old plan | × `async` | from the last action | × `async` | changes | success |",
        "|" + "---|" * 8,
    ]
    jumping = {row["policy"]: row for row in own if row["mode"] == "async"}
    for row in sorted(own, key=lambda one: (*(one[key] or 0 for key in PLACE), one["policy"])):
        name = f"`{row['guidance']}`" if row["mode"] == "rtc" else "`async`"
        name += f", {row['execution_horizon']} rows" if row["execution_horizon"] else ""
        against = jumping[row["policy"]]
        gap, seam = (f"{row[key]:.2f} | {row[key] / against[key]:.2f}" for key in ("gap95", "seam95"))
        won = round(row["success_rate"] * row["episodes"])
        lines.append(
            f"| {name} | {JUMPS[row['policy']]} | {gap} | {seam} | {row['changes']} | {won} of {row['episodes']} |"
        )
    return "\n".join(lines)


def on_hardware() -> list[tuple[str, str, float]]:
    """Return (who, where, ms) of a full-size chunk: ours as measured, then what others publish."""
    chunk = json.loads((RESULT.parent / "chunk-avx512vnni.json").read_text(encoding="utf-8"))
    where = f"{chunk['threads']} cores of {MACHINES[chunk['machine']['family']]}"
    ours = [
        (f"vlapack, {OURS[row['name']]}", where, row["ms_per_chunk"]["median"])
        for row in chunk["rows"]
        if row["name"] in OURS
    ]
    peers = json.loads((RESULT.parent / "peers.json").read_text(encoding="utf-8"))["rows"]
    theirs = [
        (f"[{peer['who']}]({time['source']}), theirs", where, float(ms))
        for peer in peers
        if (time := peer["cells"]["time"])
        for ms, where in THEIRS.findall(time["text"])
    ]
    return ours + sorted(theirs, key=lambda one: one[2])


def hardware_table() -> str:
    """Return how late a full-size policy's chunk is, in control steps."""
    lines = ["| who | where | ms a chunk | control steps at 20 Hz |", "|---|---|---|---|"]
    lines += [f"| {who} | {where} | {ms:,.0f} | {math.ceil(ms / STEP_MS)} |" for who, where, ms in on_hardware()]
    return "\n".join(lines)


def drawn(found: Rows) -> str:
    """Return the picture: a panel for a target that stands still, and one for a target that moves."""

    def draw(figure: Any, frame: Frame) -> None:
        figure.set_size_inches(frame.width / 72, 4.6)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, drift in zip(panels, (False, True), strict=True):
            for mode, color in COLORS.items():
                for policy, style in ((FLOATING, "--"), (PACK, "-")):
                    _curve(axes, points(found, policy, mode, drift), color, style, f"{MODES[mode]}, {policy}")
            axes.set_xlim(-0.5, 14.5)
            axes.set_ylim(0, 101)
            axes.grid(color=GRID, linewidth=0.6)
            axes.set_xlabel("control steps from observation to chunk (50 ms each)")
            axes.set_title("the target moves at 0.1 m/s" if drift else "the target stands still", fontsize=12)
            for place, (who, where, ms) in enumerate(one for one in on_hardware() if one[2] <= 14 * STEP_MS):
                name, late, height = who.removeprefix("[").partition("]")[0], ms / STEP_MS, 18 - 7 * place
                axes.plot([late, late], [0, height + 2], color=MUTED, linewidth=0.8)
                axes.annotate(f"{name} on {where} (theirs)", (late + 0.1, height), color=MUTED, fontsize=9)
            if not drift:
                axes.axvline(10, color=MUTED, linewidth=0.8, linestyle=":")
                axes.annotate("later, every\nmode holds", (10.15, 24), color=MUTED, fontsize=10)
        panels[0].set_ylabel("success, %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=10)

    return file(
        draw,
        880,
        title="Success against latency",
        description="Success rates of tiny-libero and of its pack, with 95 % intervals, over the latency of a chunk in "
        "control steps, for a robot that waits, one that jumps into late chunks, and one whose chunks are joined.",
        tips={},
    )


def _curve(axes: Any, own: Rows, color: str, style: str, label: str) -> None:
    if not own:
        return
    late = [row["latency"] for row in own]
    axes.plot(late, [100 * row["success_rate"] for row in own], style, color=color, marker="o", ms=4, label=label)
    low, high = zip(*(row["ci95"] for row in own), strict=True)
    axes.fill_between(late, [100 * one for one in low], [100 * one for one in high], color=color, alpha=0.08, lw=0)
