"""What latency did to the episodes of a run, in a few numbers and in a sentence; and which noise floor is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from vlapack.evaluate.clock import PlanClock
from vlapack.evaluate.ledger import Record


def summarize_timing(
    clock: PlanClock, ours: Sequence[Record], theirs: Sequence[Record] | None
) -> dict[str, Any] | None:
    """Build the `clock` of `summary.json`; None where time stands still.

    Args:
        clock: the plan's.
        ours: the policy's episodes that have a result.
        theirs: the baseline's, or None.

    Returns:
        The plan's clock, `said` (it in one line), and for `policy` and `baseline`: `latency` (control steps), `chunks`
        (mean of an episode), `held` (fraction of all control steps for which the robot held still), `ran_out` (fraction
        for which it did because the old chunk had run out), `ran_out_episodes` (how many that happened to), and the
        95 % points of `Timing.seams` and `Timing.gaps`, `seam95` and `gap95`.
    """
    if clock.stands_still:
        return None
    sides = {"policy": _side(clock, ours), "baseline": None if theirs is None else _side(clock, theirs)}
    return {**clock.to_dict(), "said": clock.said(), **sides}


def timing_sentence(summary: Mapping[str, Any]) -> str | None:
    """Say it in one line; None where time stands still."""
    if (found := summary.get("clock")) is None:
        return None
    sides = {name: found[name] for name in ("policy", "baseline") if found[name] is not None}
    each = "; ".join(f"{name} {_said(side)}" for name, side in sides.items())
    return f"clock: {found['said']}" + (f". {each}" if each else "")


def left_out_floor(summary: Mapping[str, Any]) -> str | None:
    """Say why a floor that comes with the policy is not shown beside a drop; None where it would be, or one is."""
    moving = {"clock": "time goes on while a policy thinks", "drift": "the target moves"}
    if summary["noise_floor"] is not None or summary["paired"] is None or not moving.keys() & summary.keys():
        return None
    here = " and ".join(text for key, text in moving.items() if key in summary)
    return f"not known where {here}; the floors that come with policies were measured with time and target at rest"


def _side(clock: PlanClock, records: Sequence[Record]) -> dict[str, Any] | None:
    timings = [record.timing for record in records if record.timing is not None]
    steps = sum(record.steps for record in records if record.timing is not None)
    if not steps:
        return None
    return {
        "latency": clock.steps(records[0].role),
        "chunks": fmean(timing.chunks for timing in timings),
        "held": sum(timing.held for timing in timings) / steps,
        "ran_out": sum(timing.ran_out for timing in timings) / steps,
        "ran_out_episodes": sum(timing.ran_out > 0 for timing in timings),
        "seam95": _point95([seam for timing in timings for seam in timing.seams]),
        "gap95": _point95([gap for timing in timings for gap in timing.gaps]),
    }


def _point95(values: Sequence[float]) -> float | None:
    return float(np.percentile(values, 95)) if values else None


def _said(side: Mapping[str, Any]) -> str:
    held = f"held still for {100 * side['held']:.1f} % of the steps"
    if side["ran_out_episodes"]:
        held += f", {100 * side['ran_out']:.1f} % because a chunk had run out ({side['ran_out_episodes']} episodes)"
    return held + ("" if side["seam95"] is None else f", jump between chunks {side['seam95']:.2f} (95 % point)")
