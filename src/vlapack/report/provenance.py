"""Where the figures of a report are from: recipe, fingerprint, machine, versions, and what to type for the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from vlapack.report.packs import PackFacts
from vlapack.report.runs import Comparison

ShellLine = Callable[[str, Mapping[str, Any]], str]
"""Policy and settings of an evaluation → what to type for it."""


def python_call(policy: str, settings: Mapping[str, Any]) -> str:
    """Write an evaluation's settings as Python does."""
    return ", ".join([repr(policy), *(f"{name}={value!r}" for name, value in settings.items())])


@dataclass(frozen=True)
class Facts:
    """One thing that the page rests on, as names and values; `text` is shown as it is, in a box that opens."""

    title: str
    rows: Sequence[tuple[str, str]]
    text: str | None = None


def provenance(
    comparisons: Sequence[Comparison], packs: Sequence[PackFacts], shell_line: ShellLine = python_call
) -> list[Facts]:
    """Describe every run and every pack; `shell_line` says how to play the same episodes."""
    return [*(_run(comparison, shell_line) for comparison in comparisons), *(_pack(pack) for pack in packs)]


def mismatches(comparisons: Sequence[Comparison], packs: Sequence[PackFacts]) -> Iterator[str]:
    """Name every pack that was not played, where it is known which were."""
    identities = [comparison.run.plan.policies[comparison.role] for comparison in comparisons]
    played = {identity["weights"] for identity in identities if "weights" in identity}
    for pack in packs:
        if played and pack.fingerprint not in played:
            yield f"{pack.name} was not played in these runs (its fingerprint is {pack.fingerprint[:12]}…)."


def _run(comparison: Comparison, shell_line: ShellLine) -> Facts:
    plan = comparison.run.plan
    identity = plan.policies[comparison.role]
    rows = [("folder", str(comparison.run.folder)), ("policy", comparison.name)]
    rows += [(f"policy: {key}", str(value)) for key, value in identity.items() if key != "name"]
    if comparison.against is not None:
        rows.append(("baseline", str(comparison.baseline)))
        told = plan.policies[comparison.against]
        rows += [(f"baseline: {key}", str(value)) for key, value in told.items() if key != "name"]
    rows += [
        ("tasks", ", ".join(f"{suite}_{task}" for suite, task in plan.tasks)),
        ("init states", _ranges(plan.init_states)),
        ("noise seeds", str(plan.noise_seeds)),
        ("seed", str(plan.seed)),
        ("actions per chunk carried out", str(plan.replan)),
        *(() if plan.clock.stands_still else (("clock", plan.clock.said()),)),
        *((("drift", f"{plan.drift:g} m/s"),) if plan.drift else ()),
        ("reset", "hard" if plan.hard_reset else "soft"),
        ("engine", plan.engine),
        ("simulator", plan.simulator or "not named"),
        *((str(key), _shown(value)) for key, value in plan.arithmetic.items()),
    ]
    versions = comparison.summary["versions"]
    if versions is None:
        rows.append(("versions", "not known: the run has no summary.json yet"))
    else:
        rows += [(key, _shown(value)) for key, value in versions.items()]
    settings = settings_of(comparison)
    if settings is not None:
        rows.append(("the same episodes", shell_line(comparison.name, settings)))
    return Facts(f"Run: {comparison.name}", rows)


def _pack(pack: PackFacts) -> Facts:
    rows = [
        ("fingerprint", pack.fingerprint),
        ("parent's weights", pack.parent_weights),
        ("made by vlapack", pack.version),
        *((str(key), _shown(value)) for key, value in pack.made_with.items()),
    ]
    return Facts(f"Pack: {pack.name}", rows, json.dumps(pack.recipe, indent=2, ensure_ascii=False))


def settings_of(comparison: Comparison) -> dict[str, Any] | None:
    """Return the settings of `vlapack eval` that play the same episodes; None where no single command can."""
    plan = comparison.run.plan
    suites = list(dict.fromkeys(suite for suite, _ in plan.tasks))
    clock = plan.clock
    if len(suites) > 1 or comparison.role != "policy" or not isinstance(clock.latency, int):
        return None
    found: dict[str, Any] = {} if comparison.baseline is None else {"baseline": comparison.baseline}
    found |= {"suite": suites[0], "task_ids": _ranges([task for _, task in plan.tasks])}
    found |= {"init_states": _ranges(plan.init_states), "seed": plan.seed, "replan": plan.replan}
    found |= {"noise_seeds": plan.noise_seeds} if plan.noise_seeds > 1 else {}
    if not clock.stands_still:
        found |= {"mode": clock.mode, "latency": f"{clock.latency}steps", "control_hz": clock.control_hz}
        found |= {} if clock.execution_horizon is None else {"execution_horizon": clock.execution_horizon}
        found |= {} if clock.guidance is None else {"guidance": clock.guidance}
    found |= {"drift": plan.drift} if plan.drift else {}
    return found | ({"hard_reset": True} if plan.hard_reset else {})


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers as `eval` reads them: 0-4,10."""
    runs = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(runs)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_shown(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return str(value)
