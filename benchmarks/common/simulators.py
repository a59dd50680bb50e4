"""What `scripts/compare_libero.py` found: how LIBERO's distributions and MuJoCo's versions differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.full_size import read

SAME = 1e-12
"""Differences of state below this are the order of sums."""


def distributions() -> str:
    """Return the largest differences that other distributions and versions show, suite by suite, in Markdown."""
    document = read("libero_distributions.json")
    lines = [
        f"| against {_environment(document['reference'])} | pixels that differ visibly | simulator's state "
        "| robot's state |",
        "|---|---|---|---|",
    ]
    for one in document["comparisons"]:
        name = _environment(one["environment"])
        suites: dict[str, list[Mapping[str, Any]]] = {}
        for task in one["tasks"]:
            suites.setdefault(task["task"].rpartition("_")[0], []).append(task)
        if not _largest(one["tasks"], "mean_levels"):
            lines.append(f"| {name}: every suite | {_cells(one['tasks'])} |")
            continue
        rows = sorted(suites.items(), key=lambda item: -_largest(item[1], "visible_percent"))
        lines += [f"| {name}: {suite} | {_cells(tasks)} |" for suite, tasks in rows]
    return "\n".join(lines)


def _environment(found: Mapping[str, Any]) -> str:
    distribution = found["simulator"].split()[0]
    return f"`{distribution}`, MuJoCo {found['mujoco']}, Python {found['python'].rpartition('.')[0]}"


def _cells(tasks: Sequence[Mapping[str, Any]]) -> str:
    pixels, levels = (_largest(tasks, field) for field in ("visible_percent", "mean_levels"))
    shown = f"{pixels:.2g} %" if levels else "none differs at all"
    robot = _largest(tasks, "robot_state_largest")
    return f"{shown} | {_largest(tasks, 'simulator_state_largest'):.2g} | {'equal' if robot < SAME else f'{robot:.2g}'}"


def _largest(tasks: Iterable[Mapping[str, Any]], field: str) -> float:
    """The largest value of a field, of both cameras where each has one."""
    return max(value for task in tasks for key, value in task.items() if key.endswith(field))


FIGURES = {"libero distributions": distributions}
