"""Which component may be quantized first? Packs of tiny-libero act in the simulator, on the same episodes as the float.

    python benchmarks/closed_loop.py [--trials 15] [--workers 2]
    python benchmarks/closed_loop.py --seed 8 --policies dit full

The float policy is version 1 of tiny-libero. Every policy has the same initial states and the same noise. The result
goes to benchmarks/results/closed_loop.json and as a table into benchmarks/results/README.md; that of a second seed,
whose noise repeats what the first found out, stands beside it. Every episode is kept too, and the same command again
continues, on another day, as long as the packs come out byte by byte the same. A last table adds up the results of all
runs.
"""

from __future__ import annotations

import vlapack  # noqa: F401  before torch, whose waiting threads then leave their cores to the simulators

# isort: split
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common.floor import write_floor
from common.grid import AT_FOUR_BITS, GUIDE_FULL
from common.results import FIRST_OBSERVATIONS, FIRST_POLICY, ROOT, write_between, write_result
from scipy.stats import chi2

from vlapack import make_pack, open_checkpoint
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, say
from vlapack.errors import InputError
from vlapack.evaluate.contender import contender
from vlapack.evaluate.floor import noise_floor
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.run import conclude, evaluate
from vlapack.evaluate.tasks import choose_tasks, listed_tasks
from vlapack.libero.suites import num_tasks
from vlapack.observations.folder import open_source
from vlapack.ops.engine import active

PARENT = "tiny-libero"
"""What version 1 was called when its episodes were played."""
SEED = Plan.seed
RESULT = ROOT / "benchmarks" / "results" / "closed_loop.json"
DOCS = RESULT.with_name("README.md")
W4A8_PRESETS = ("dit-fast", "dit", "llm", "vision", "quantvla", "full", "everything")
RECIPES = {
    **{name: AT_FOUR_BITS[name] for name in W4A8_PRESETS},
    "guide-full": GUIDE_FULL,
    "full-w4a4": replace(AT_FOUR_BITS["full"], act_bits=4),
}


def main(
    *,
    trials: int = 15,
    seed: int = SEED,
    policies: tuple[str, ...] = tuple(RECIPES),
    workers: int = 2,
    work: Path = ROOT / "outputs" / "closed_loop",
) -> int:
    """Play.

    Args:
        trials: Episodes per task and policy, from initial states 0 to trials-1.
        seed: Of the noise. Another one than the usual has its own result, episodes and table.
        policies: The packs that play, beside the float policy.
        workers: Simulators at a time.
        work: The folder of packs and summaries.
    """
    if unknown := set(policies) - set(RECIPES):
        raise InputError(f"--policies has {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    checkpoint = open_checkpoint(FIRST_POLICY)
    baseline, metadata = contender("baseline", str(FIRST_POLICY))
    contenders = [replace(baseline, identity={**baseline.identity, "name": PARENT})]
    source = open_source(FIRST_OBSERVATIONS)
    for name, recipe in RECIPES.items():
        calibration = [frame.observation for frame in source.take(min(recipe.calib_steps, len(source)))]
        report = make_pack(checkpoint, recipe, work / "packs" / name, calibration)
        packed, _ = contender(name, str(report.pack))
        contenders.append(replace(packed, identity={**packed.identity, "name": name}))  # wherever the folder lies
    plan = Plan(
        tasks=choose_tasks(None, None, listed_tasks(metadata), num_tasks),
        init_states=tuple(range(trials)),
        policies={entry.role: entry.identity for entry in contenders},  # also of those that play another day
        seed=seed,
        engine=active(),
    )
    result = RESULT if seed == SEED else RESULT.with_stem(f"{RESULT.stem}-seed{seed}")
    contenders = [entry for entry in contenders if entry.role in ("baseline", *policies)]
    say(f"{len(plan.cases())} episodes for each of {len(contenders)} policies")
    records = evaluate(plan, contenders, result.with_suffix(""), workers=workers, videos=False)
    summaries = {name: conclude(plan, records, work, names=(name, PARENT), role=name) for name in policies}
    write_result(result, rows(summaries), cochran_p_value=cochran(records))
    write_tables()
    keep_floor(records["baseline"], baseline.identity["weights"], seed)
    return 0


def keep_floor(records: Sequence[Record], weights: str, seed: int) -> None:
    """Put the float policy's disagreement with itself under another seed beside the policy; a larger one stays.

    Args:
        records: its episodes with `seed`.
        weights: digest of its weights; runs of other ones are not compared.
        seed: theirs.
    """
    for other in sorted(RESULT.parent.glob(f"{RESULT.stem}-seed*/plan.json")):
        plan = json.loads(other.read_text(encoding="utf-8"))
        if plan["baseline.weights"] != weights or plan["seed"] == seed:
            continue
        lines = map(json.loads, (other.parent / "episodes.jsonl").read_text(encoding="utf-8").splitlines())
        again = [Record(**{**line, "infer_ms": ()}) for line in lines if line["role"] == "baseline"]
        kind = f"another seed, of noise and fixtures: {plan['seed']} for {seed}"
        source = f"benchmarks/results/{other.parent.name}"
        write_floor(FIRST_POLICY, weights, noise_floor(records, again, kind=kind, source=source))


def write_tables() -> None:
    """Write the results' tables into the docs: each seed's, and one of all results together."""
    of_seeds = sorted(RESULT.parent.glob(f"{RESULT.stem}-seed*.json"))
    markers = {
        RESULT: "closed loop",
        **{file: f"closed loop, seed {file.stem.partition('-seed')[2]}" for file in of_seeds},
    }
    for file, marker in markers.items():
        found = json.loads(file.read_text(encoding="utf-8"))
        write_between(DOCS, marker, table(found["rows"], found["cochran_p_value"]))
    results = [*RESULT.parent.glob(f"{RESULT.stem}-*.json"), RESULT]
    write_between(DOCS, "closed loop, together", together(sorted(results)))


def cochran(records: Mapping[str, Sequence[Record]]) -> float:
    """Return how probable such differences are if all policies were alike: Cochran's Q (Biometrika 37, 1950).

    Args:
        records: policy → its episodes, the same ones for all.
    """
    by_case = [{record.case: record.success for record in played} for played in records.values()]
    cases = [case for case in by_case[0] if all(of_policy[case] is not None for of_policy in by_case)]
    won = np.array([[of_policy[case] for of_policy in by_case] for case in cases], dtype=float)
    policies, per_policy, per_case = won.shape[1], won.sum(0), won.sum(1)
    between = policies * (per_policy**2).sum() - per_policy.sum() ** 2
    within = policies * per_case.sum() - (per_case**2).sum()
    return float(chi2.sf((policies - 1) * between / within, policies - 1)) if within else 1.0


def rows(summaries: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the float policy and every pack, each with its interval and the paired test against the float."""
    first = next(iter(summaries.values()))
    found = [
        {
            "policy": "float",
            "bits": "float",
            "episodes": first["episodes"],
            "success_rate": first["baseline_success_rate"],
            "ci95": first["baseline_ci95"],
            "baseline_success_rate": first["baseline_success_rate"],
            "p_value": None,
            "bytes": first["bytes"]["baseline"],
        }
    ]
    for name, summary in summaries.items():
        found.append(
            {
                "policy": name,
                "bits": f"W4A{RECIPES[name].act_bits}",
                "episodes": summary["episodes"],
                "success_rate": summary["success_rate"],
                "ci95": summary["ci95"],
                "baseline_success_rate": summary["baseline_success_rate"],
                "p_value": summary["paired"]["p_value"],
                "bytes": summary["bytes"]["policy"],
            }
        )
    return found


def table(found: Sequence[dict[str, Any]], alike: float) -> str:
    """Return the rows in Markdown, and Cochran's test of them all."""
    lines = [
        f"{found[0]['episodes']} episodes each, from the same initial states with the same noise; *p*: McNemar's exact "
        f"test against the float policy. Cochran's Q over all {len(found)}: *p* = {alike:.2f}.",
        "",
        "| policy | bits | success | 95 % interval | *p* | MB held |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        low, high = row["ci95"]
        cells = (
            f"`{row['policy']}`",
            row["bits"],
            f"{100 * row['success_rate']:.0f} %",
            f"{100 * low:.0f}-{100 * high:.0f} %",
            "" if row["p_value"] is None else f"{row['p_value']:.3f}",
            f"{row['bytes'] / 1e6:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def together(results: Sequence[Path]) -> str:
    """Return the success of every policy in each result and in all of them, in Markdown, the best first."""
    played = [{row["policy"]: row for row in json.loads(result.read_text("utf-8"))["rows"]} for result in results]
    pooled: dict[str, tuple[int, int]] = {}
    for row in (row for of_result in played for row in of_result.values()):
        won, episodes = pooled.get(row["policy"], (0, 0))
        pooled[row["policy"]] = (won + round(row["success_rate"] * row["episodes"]), episodes + row["episodes"])
    lines = [
        f"| policy | {' | '.join(f'`{result.stem}`' for result in results)} | together |",
        "|---" * (len(results) + 2) + "|",
    ]
    for name, (won, episodes) in sorted(pooled.items(), key=lambda entry: -entry[1][0] / entry[1][1]):
        rates = [f"{100 * of_result[name]['success_rate']:.0f} %" if name in of_result else "" for of_result in played]
        lines.append(f"| `{name}` | {' | '.join(rates)} | {100 * won / episodes:.0f} % of {episodes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
