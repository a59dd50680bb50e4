"""What every policy of a plan is compared with, and all summaries of a finished folder.

An evaluation has the roles "policy", "baseline" and a noise floor. In a sweep each policy's identity says `against`:
the role that it is compared with, or "" if it plays alone; a floor's role is its baseline's and `+noise-floor`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlapack.evaluate.floor import committed_floor
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import FLOOR_SUFFIX, NOISE_FLOOR, Plan
from vlapack.evaluate.run import conclude
from vlapack.evaluate.sequential_sweep import Until
from vlapack.files import write_json


def conclude_all(
    plan: Plan, records: Mapping[str, Sequence[Record]], out: Path, *, until: Until | None = None
) -> dict[str, Any]:
    """Write the summaries of a folder.

    Args:
        plan: what was played.
        records: by role, as `run.evaluate` returns them.
        out: the output folder; in a sweep each policy has a folder of its own in it.
        until: what stopped the run.

    Returns:
        `summary.json`: of an evaluation, as `summary.summarize` describes it; of a sweep, `type`, `policies` (role →
        that summary) and `verdict`, the worst of them.
    """
    if plan.is_sweep:
        return _conclude_sweep(plan, records, out, until)
    names = {role: str(identity.get("name", role)) for role, identity in plan.policies.items()}
    committed = None
    # Committed floors were measured where time and target stand still.
    if "baseline" in plan.policies and plan.clock.stands_still and not plan.drift:
        committed = committed_floor(names["baseline"], plan.policies["baseline"].get("weights"))
    return conclude(
        plan,
        records,
        out,
        names=(names["policy"], names.get("baseline")),
        committed=committed,
        until=None if until is None else until.of("policy"),
    )


def _conclude_sweep(
    plan: Plan, records: Mapping[str, Sequence[Record]], out: Path, until: Until | None
) -> dict[str, Any]:
    summaries = {}
    for role in plan.policies:
        if plan.is_floor(role):
            continue
        played = {"policy": records[role]}
        if (against := plan.against(role)) is not None:
            # The baseline may have gone on for other comparisons.
            cases = {record.case for record in records[role]}
            played["baseline"] = [record for record in records[against] if record.case in cases]
            if (floor := against + FLOOR_SUFFIX) in records:
                played[NOISE_FLOOR] = records[floor]
        folder = out / "policies" / role
        folder.mkdir(parents=True, exist_ok=True)
        summaries[role] = conclude(
            plan, played, folder, names=(role, against), until=None if until is None else until.of(role)
        )
    verdicts = [summary["verdict"] for summary in summaries.values()]
    found = {"type": "vlapack.sweep", "policies": summaries, "verdict": min(verdicts, key=_WORST_FIRST.index)}
    write_json(out / "summary.json", found)
    return found


_WORST_FIRST = ("errors", "baseline_failed", "drop", "inconclusive", "no_drop_measured", "no_baseline")
