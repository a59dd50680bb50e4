"""What an evaluation says: `summary.json`, its verdict, and LeRobot's `eval_info.json`."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from vlapack import __version__
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.pooled import Counts, pooled_difference
from vlapack.evaluate.power import DROPS, episodes_needed
from vlapack.evaluate.statistics import Paired, drop_upper95, wilson
from vlapack.evaluate.timing import summarize_timing
from vlapack.libero.distribution import HF, PRO
from vlapack.machine.cpu import describe_machine

BASELINE_FLOOR = 0.10
"""A baseline that succeeds no more often than this cannot show a drop."""

MARGIN = 0.10
"""`no_drop_measured` needs evidence against a drop of this size: ten points of success rate."""

ALPHA = 0.05

DISTRIBUTIONS = ("torch", "numpy", "mujoco", "robosuite", PRO, HF)


def verdict(
    paired: Paired | None,
    baseline_rate: float | None,
    errors: int,
    clustered: tuple[float, float] | None = None,
) -> str:
    """Put the comparison into one word; the first rule that applies decides.

    * `errors`: an episode has no result, because the simulator failed twice on it.
    * `no_baseline`: one policy alone was evaluated; nothing is compared.
    * `baseline_failed`: the baseline succeeded in at most 10 % of the episodes. Against that nothing can be lost, so
      the comparison says nothing: the checkpoint, its configuration or the tasks are wrong.
    * `drop`: the policy is worse, McNemar's exact p < 0.05.
    * `no_drop_measured`: the 95 % interval of the difference in success rate lies above -10 points.
    * `inconclusive`: neither; more episodes would tell.

    Args:
        paired: the episodes by who succeeded.
        baseline_rate: of success.
        errors: episodes without a result.
        clustered: bounds of the drop, lower and upper, where those of independent pairs are not enough: by starts
            (`drop_upper95`), if they were played several times, and of a run that could stop early. `drop` then also
            asks for a lower bound above 0, and `no_drop_measured` for an upper one below 10 points.
    """
    least, most = (0.0, 0.0) if clustered is None else clustered
    if errors:
        return "errors"
    if paired is None or baseline_rate is None:
        return "no_baseline"
    if baseline_rate <= BASELINE_FLOOR:
        return "baseline_failed"
    if paired.only_baseline > paired.only_policy and paired.p_value < ALPHA and (clustered is None or least > 0):
        return "drop"
    if paired.difference_interval()[0] > -MARGIN and most < MARGIN:
        return "no_drop_measured"
    return "inconclusive"


FAILED_VERDICTS = {
    "errors": "some episodes have no result (see episodes.jsonl); the same command runs only those again",
    "baseline_failed": (
        "the baseline almost never succeeds, so nothing can be said about the policy: check its checkpoint, `config` "
        "and `norm_stats`, and that it was trained on these tasks"
    ),
}
"""Verdicts with exit code 1, and what to do about each."""


def summarize(
    plan: Plan,
    policy: Sequence[Record],
    baseline: Sequence[Record] | None,
    *,
    names: tuple[str, str | None],
    floor: Mapping[str, Any] | None = None,
    sequential: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the `summary.json` of one policy, with its baseline's episodes if there are any.

    Args:
        plan: the plan that both sets of records come from.
        policy: records of the policy.
        baseline: records of the float parent on the same cases, or None.
        names: what the user called the two.
        floor: the baseline's disagreement with itself (`evaluate.floor.noise_floor`), or None.
        sequential: of a run that could stop early, what `evaluate.sequential.Stopping` says; else None.

    Returns:
        The JSON contract of `summary.json`. Rates are fractions, intervals Wilson's at 95 %, milliseconds the median
        over all chunks, steps the mean over successful episodes, bytes those of the weights held in memory.
        `paired.difference` and its interval are policy minus baseline; `paired.drop_upper95` is the largest drop, one
        sided at 95 %, with episodes of one start counted as dependent; `paired.episodes_needed` is how many pairs would
        show a drop (`evaluate.power`), if as many end differently as here or under the noise floor, whichever is more.
        `pooled` is the Mantel-Haenszel difference over tasks (`evaluate.pooled`). With several suites `suite` is a
        comma list and `task_ids` runs through them in order, as the keys of `per_task` do. `clock` is there only where
        time goes on while a policy thinks (`evaluate.timing`), `drift` (meters a second) only where the target moves.
    """
    ours, theirs = _finished(policy), _finished(baseline or [])
    rate, interval = _rate(ours)
    paired = baseline_rate = baseline_interval = bound = clustered = None
    if baseline is not None:
        baseline_rate, baseline_interval = _rate(theirs)
        outcomes = {record.case: bool(record.success) for record in theirs}
        pairs = [(r.case.start, bool(r.success), outcomes[r.case]) for r in ours if r.case in outcomes]
        paired, bound = Paired.of((won, parent) for _, won, parent in pairs), drop_upper95(pairs)
        if plan.noise_seeds > 1:
            clustered = -drop_upper95((start, parent, won) for start, won, parent in pairs), bound
        if sequential is not None:  # the other bounds would hold if the run had not been looked at
            low, high = sequential["interval95"]
            least, most = clustered or (-high, -low)
            clustered = min(least, -high), max(most, -low)
    timing = summarize_timing(plan.clock, ours, None if baseline is None else theirs)
    errors = len(policy) - len(ours) + len(baseline or []) - len(theirs)
    return {
        "policy": names[0],
        "baseline": names[1],
        "suite": ",".join(dict.fromkeys(suite for suite, _ in plan.tasks)),
        "task_ids": [task for _, task in plan.tasks],
        "trials": len(plan.init_states),
        "init_states": list(plan.init_states),
        "noise_seeds": plan.noise_seeds,
        "seed": plan.seed,
        "episodes": len(ours),
        "success_rate": rate,
        "ci95": interval,
        "baseline_success_rate": baseline_rate,
        "baseline_ci95": baseline_interval,
        "paired": _paired(paired, bound, floor),
        "pooled": None if baseline is None else _pooled(plan, ours, theirs),
        "noise_floor": None if floor is None else dict(floor),
        "steps": _both(ours, theirs, _mean_steps),
        "bytes": _both(ours, theirs, lambda records: records[-1].held_bytes if records else None),
        "mapped_bytes": _both(ours, theirs, lambda records: records[-1].mapped_bytes if records else None),
        "ms_per_chunk": _both(ours, theirs, ms_per_chunk),
        "per_task": _per_task(plan, ours, theirs if baseline is not None else None),
        **({} if timing is None else {"clock": timing}),
        **({"drift": plan.drift} if plan.drift else {}),
        **({} if sequential is None else {"sequential": dict(sequential)}),
        "errors": errors,
        "verdict": verdict(paired, baseline_rate, errors, clustered),
        "reset": "hard" if plan.hard_reset else "soft",
        "versions": versions(plan.engine),
    }


def ms_per_chunk(records: Sequence[Record]) -> float | None:
    """Median milliseconds of one call of the policy, while the simulators use the other cores."""
    times = [ms for record in records for ms in record.infer_ms]
    return median(times) if times else None


def versions(engine: str) -> dict[str, Any]:
    """Name what produced the numbers: packages, interpreter, machine, engine."""
    found: dict[str, Any] = {"vlapack": __version__, "python": platform.python_version(), "engine": engine}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "machine": describe_machine()}


def eval_info(records: Sequence[Record]) -> dict[str, Any]:
    """Return the episodes of one policy in the form of LeRobot's `eval_info.json`.

    LIBERO's reward is 1 on reaching the goal and 0 before, so sum and maximum both are the success. Episodes without
    a result are left out. `eval_s` sums the episodes' own times, as if one worker had run them all.
    """
    finished = _finished(records)
    tasks: dict[tuple[str, int], list[Record]] = {}
    for record in finished:
        tasks.setdefault((record.suite, record.task_id), []).append(record)
    suites: dict[str, list[Record]] = {}
    for record in finished:
        suites.setdefault(record.suite, []).append(record)
    seconds = sum(record.seconds for record in finished)
    return {
        "per_task": [
            {"task_group": suite, "task_id": task, "metrics": _metrics(rows)} for (suite, task), rows in tasks.items()
        ],
        "per_group": {suite: _aggregate(rows) for suite, rows in suites.items()},
        "overall": {
            **_aggregate(finished),
            "eval_s": seconds,
            "eval_ep_s": seconds / len(finished) if finished else None,
        },
    }


def _metrics(records: Sequence[Record]) -> dict[str, Any]:
    rewards = [float(bool(record.success)) for record in records]
    return {
        "sum_rewards": rewards,
        "max_rewards": rewards,
        "successes": [bool(record.success) for record in records],
        "video_paths": [record.video for record in records if record.video],
    }


def _aggregate(records: Sequence[Record]) -> dict[str, Any]:
    rate, _ = _rate(records)
    return {
        "avg_sum_reward": rate,
        "avg_max_reward": rate,
        "pc_success": None if rate is None else 100 * rate,
        "n_episodes": len(records),
        "video_paths": [record.video for record in records if record.video],
    }


def _finished(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.error is None]


def _rate(records: Sequence[Record]) -> tuple[float | None, list[float]]:
    successes = sum(bool(record.success) for record in records)
    return (successes / len(records) if records else None), list(wilson(successes, len(records)))


def _mean_steps(records: Sequence[Record]) -> float | None:
    steps = [record.steps for record in records if record.success]
    return fmean(steps) if steps else None


def _both(ours: Sequence[Record], theirs: Sequence[Record], of: Callable[[Sequence[Record]], Any]) -> dict[str, Any]:
    return {"policy": of(ours), "baseline": of(theirs)}


def _paired(paired: Paired | None, bound: float | None, floor: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if paired is None:
        return None
    discordance = (paired.only_policy + paired.only_baseline) / paired.episodes if paired.episodes else 0.0
    if floor is not None:
        discordance = max(discordance, floor["discordant"] / floor["episodes"])
    return {
        "both": paired.both,
        "only_policy": paired.only_policy,
        "only_baseline": paired.only_baseline,
        "neither": paired.neither,
        "p_value": paired.p_value,
        "difference": paired.difference,
        "difference_ci95": list(paired.difference_interval()),
        "drop_upper95": bound,
        "discordance": discordance,
        "episodes_needed": [
            {"drop": drop, "episodes": episodes_needed(drop, max(discordance, drop))} for drop in DROPS
        ],
    }


def _pooled(plan: Plan, ours: Sequence[Record], theirs: Sequence[Record]) -> dict[str, Any] | None:
    def count(records: Sequence[Record]) -> dict[tuple[str, int], tuple[int, int]]:
        found = dict.fromkeys(plan.tasks, (0, 0))
        for record in records:
            won, played = found[record.suite, record.task_id]
            found[record.suite, record.task_id] = won + bool(record.success), played + 1
        return found

    policy, baseline = count(ours), count(theirs)
    pooled = pooled_difference(Counts(*policy[task], *baseline[task]) for task in plan.tasks)
    return None if pooled is None else {"difference": pooled[0], "ci95": list(pooled[1:])}


def _per_task(plan: Plan, ours: Sequence[Record], theirs: Sequence[Record] | None) -> dict[str, Any]:
    def score(records: Sequence[Record], suite: str, task: int) -> dict[str, Any]:
        rows = [record for record in records if (record.suite, record.task_id) == (suite, task)]
        rate, interval = _rate(rows)
        successes = sum(bool(row.success) for row in rows)
        return {"episodes": len(rows), "successes": successes, "success_rate": rate, "ci95": interval}

    return {
        f"{suite}_{task}": {
            "policy": score(ours, suite, task),
            "baseline": None if theirs is None else score(theirs, suite, task),
        }
        for suite, task in plan.tasks
    }
