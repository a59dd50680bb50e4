"""Sections on how a policy acts: success in closed loop, actions on recorded data, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlapack.evaluate.statistics import Paired
from vlapack.evaluate.summary import MARGIN
from vlapack.report.charts import Estimate, ForestRow, SpreadRow, forest, spreads, stacked
from vlapack.report.evidence import Benched, Compared, Timed
from vlapack.report.runs import Comparison
from vlapack.report.sections import Block, Section, Table
from vlapack.report.verdict import percent, points

ALL = "all tasks"


def success(comparisons: Sequence[Comparison]) -> Section:
    """Success per task, float and packed, with intervals."""
    blocks = [_forest(comparison) for comparison in comparisons if comparison.summary["episodes"]]
    missing = "no finished episode was given: `vlapack eval PACK --baseline FLOAT --out RUN` plays them"
    return Section.of("success", "Success, task by task", blocks, missing)


def _forest(comparison: Comparison) -> Block:
    summary = comparison.summary
    rows, cells = [], []
    tasks = {**summary["per_task"]}
    total = {"policy": _overall(summary, "", summary["episodes"]), "baseline": None}
    if summary["baseline"] is not None:
        total["baseline"] = _overall(summary, "baseline_", None)
    outcomes: dict[str, list[tuple[bool, bool]]] = {task: [] for task in (*tasks, ALL)}
    for pair in comparison.pairs:
        if pair.packed and pair.floating and pair.comparable:
            for task in (pair.case.task, ALL):
                outcomes[task].append((bool(pair.packed.success), bool(pair.floating.success)))
    for name, scores in {**tasks, ALL: total}.items():
        difference = _difference(outcomes[name])
        packed, floating = (_estimate(scores[who]) for who in ("policy", "baseline"))
        rows.append(ForestRow(name, packed, floating, difference))
        cells.append([name, *_score(scores["baseline"]), *_score(scores["policy"]), _points(difference)])
    head = ["task", "float", "95 % interval", "packed", "95 % interval", "difference, points"]
    says = "Success with Wilson's 95 % intervals."
    if summary["baseline"] is not None:
        says += " Beside it, packed minus float on the same episodes, with Newcombe's intervals for pairs."
    return Block(_heading(comparison), says, forest(rows, MARGIN), Table(head, cells))


def _overall(summary: Mapping[str, Any], prefix: str, episodes: int | None) -> dict[str, Any]:
    rate = summary[f"{prefix}success_rate"]
    paired = summary["paired"]
    if episodes is None:
        episodes = sum(paired[key] for key in ("both", "only_policy", "only_baseline", "neither"))
    return {"success_rate": rate, "ci95": summary[f"{prefix}ci95"], "episodes": episodes, "successes": None}


def _difference(outcomes: Sequence[tuple[bool, bool]]) -> Estimate | None:
    if not outcomes:
        return None
    paired = Paired.of(outcomes)
    return Estimate(paired.difference, *paired.difference_interval())


def _estimate(score: Mapping[str, Any] | None) -> Estimate | None:
    if score is None or score["success_rate"] is None:
        return None
    return Estimate(score["success_rate"], *score["ci95"])


def _score(score: Mapping[str, Any] | None) -> tuple[str, str]:
    if score is None or score["success_rate"] is None:
        return "–", "–"
    counts = "" if score["successes"] is None else f" ({score['successes']} of {score['episodes']})"
    low, high = score["ci95"]
    return f"{percent(score['success_rate'])}{counts}", f"{100 * low:.0f}–{100 * high:.0f} %"


def _points(difference: Estimate | None) -> str:
    if difference is None:
        return "–"
    return f"{points(difference.value)} ({points(difference.low)} to {points(difference.high)})"


def actions(compared: Sequence[Compared]) -> Section:
    """The action error beside the float policy's own spread."""
    blocks = []
    for found in compared:
        moving = [row for row in found.dimensions if row.relative is not None and row.scale > 0]
        rows = [
            SpreadRow(
                row.name, [row.relative.p50, row.relative.p95], [row.spread.p50 / row.scale, row.spread.p95 / row.scale]
            )
            for row in moving
            if row.relative is not None
        ]
        cells = [[row.label, *(f"{value:.3g}" for value in (*row.error, *row.spread))] for row in rows]
        ours, own = found.deviation.p50, found.deviation_spread.p50
        says = (
            f"{found.frames} recorded frames ({found.data}). With the same noise, a packed chunk deviates from the "
            f"float one by {ours:.3g} standard deviations (median). With another noise, the float policy deviates from "
            f"itself by {own:.3g}. "
        )
        says += f"The packing moves {ours / own:.2f} times as much as chance does. " if own else ""
        says += "Dot: median; line: to the 95th percentile."
        if found.gripper is not None:
            says += (
                f" The gripper opens instead of closing, or the reverse, in {100 * found.gripper.rate:.1f} % of the "
                f"actions; under another noise in {100 * found.gripper.spread_rate:.1f} %."
            )
        head = ["dimension", "packed: median", "95 %", "float, another noise: median", "95 %"]
        drawn = spreads(rows) if rows else None
        blocks.append(Block(f"{found.policy} against {found.baseline}", says, drawn, Table(head, cells)))
    missing = "not measured: run `vlapack compare PACK --baseline FLOAT --data DIR --json > compare.json` and give that"
    return Section.of("actions", "Action error, beside the policy's own spread", blocks, missing)


def times(comparisons: Sequence[Comparison], benched: Sequence[Benched]) -> Section:
    """Milliseconds by part."""
    blocks = []
    for found in benched:
        policies = [policy for policy in (found.baseline, found.policy) if policy is not None]
        bars = {policy.name: _parts(policy) for policy in policies}
        rows = [
            [
                policy.name,
                *(f"{value:,.1f}" for value in bars[policy.name].values()),
                f"{policy.ms_per_chunk.median:,.1f} ({policy.ms_per_chunk.min:,.1f}–{policy.ms_per_chunk.max:,.1f})",
            ]
            for policy in policies
        ]
        speed = ""
        if found.ratio is not None and found.baseline is not None:
            speed = f" {found.policy.name} answers {found.ratio:.2f} times as fast as {found.baseline.name}."
        says = (
            f"One action chunk on {found.cpu}, {found.threads} threads, engine {found.engine} ({found.isa}).{speed} "
            f"The products alone would take {1e3 * found.floor.seconds:.3g} ms at this machine's best "
            f"({found.floor.peak_of}); the policy takes {found.floor.times_floor:.2f} times that."
        )
        names = list(next(iter(bars.values())))
        blocks.append(Block("", says, stacked(bars, "ms"), Table(["policy", *names, "chunk, ms (min–max)"], rows)))
    if not blocks and (rows := _in_run(comparisons)):
        says = (
            "Median milliseconds of a chunk in the run, while the simulators used the other cores. For the parts, give "
            "what `vlapack bench --policy PACK --baseline FLOAT --json` wrote."
        )
        blocks.append(Block("", says, None, Table(["policy", "ms per chunk"], rows)))
    missing = "not measured: run `vlapack bench --policy PACK --baseline FLOAT --json > bench.json` and give that"
    return Section.of("times", "Milliseconds, part by part", blocks, missing)


def _parts(policy: Timed) -> dict[str, float]:
    parts = {name: policy.parts.get(name, 0.0) for name in ("vision", "prefix", "denoise")}
    rest = policy.ms_per_chunk.median - sum(parts.values())
    return parts | {"the rest": max(rest, 0.0)}  # medians of parts need not add up to the median


def _in_run(comparisons: Sequence[Comparison]) -> list[list[str]]:
    rows: dict[str, list[str]] = {}
    for comparison in comparisons:
        for who, name in (("baseline", comparison.baseline), ("policy", comparison.name)):
            ms = comparison.summary["ms_per_chunk"][who]
            if name is not None and ms is not None:
                rows[name] = [name, f"{ms:,.0f}"]
    return list(rows.values())


def _heading(comparison: Comparison) -> str:
    return comparison.name if comparison.baseline is None else f"{comparison.name} against {comparison.baseline}"
