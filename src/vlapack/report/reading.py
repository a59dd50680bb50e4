"""The files of a run, which a stranger may have made or changed: every value is checked before it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vlapack.documents import is_file, read_json
from vlapack.errors import InputError
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import PLAN_TYPE, PLAN_VERSION, Plan

PLAN_FILE, EPISODES_FILE, SUMMARY_FILE = "plan.json", "episodes.jsonl", "summary.json"
_PLAN_FIELDS = (
    *("tasks", "init_states", "noise_seeds", "seed", "replan", "hard_reset", "engine", "simulator", "clock", "drift"),
)
_RECORD = TypeAdapter(Record)
_PLAN = TypeAdapter(Plan)


def is_run(folder: Path) -> bool:
    """Whether a folder is an evaluation's: it has the plan of one, or its episodes."""
    return is_file(folder / PLAN_FILE) or is_file(folder / EPISODES_FILE)


def read_plan(path: Path) -> Plan:
    """Read a plan that may have been changed since it was written.

    Raises:
        InputError: it is missing, damaged, or of another version.
    """
    if not is_file(path):
        raise InputError(f"{path.parent} has {EPISODES_FILE} but no {PLAN_FILE}, so it cannot be read; evaluate again")
    document = read_json(path)
    if document.get("type") != PLAN_TYPE or document.get("version") != PLAN_VERSION:
        raise InputError(
            f"{path} is {document.get('type')!r:.60} of version {document.get('version')!r:.20}, not {PLAN_TYPE!r} of "
            f"version {PLAN_VERSION}: give the folder of a `vlapack eval` of this version"
        )
    policies: dict[str, dict[str, str]] = {}
    rest: dict[str, Any] = {}
    for key, value in document.items():
        role, dot, what = key.rpartition(".")
        if dot:
            policies.setdefault(role, {})[what] = value
        elif key not in ("type", "version", *_PLAN_FIELDS):
            rest[key] = value
    fields = {key: document[key] for key in _PLAN_FIELDS if key in document}
    try:
        return _PLAN.validate_python({**fields, "policies": policies, "arithmetic": rest})
    except ValidationError as error:
        raise InputError(f"{path} is damaged: {first_problem(error)}; evaluate again with another `out`") from error


def read_record(line: bytes, plan: Plan, place: str) -> Record:
    """Read a line of a plan's record that may have been changed since it was written.

    Args:
        line: complete, with or without its end.
        plan: what the folder is about.
        place: names the line in messages.

    Raises:
        InputError: it is damaged, or of another plan.
    """
    try:
        record = _RECORD.validate_json(line, strict=True)
    except ValidationError as error:
        raise InputError(f"{place} is damaged: {first_problem(error)}; remove that line") from error
    if record.role not in plan.policies or plan.number(record.case) is None:
        raise InputError(
            f"{place}: {record.role} on {record.case} is not in {PLAN_FILE}: two runs are mixed here; evaluate again "
            "with another `out`"
        )
    return record


def read_summaries(folder: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    """Read what `vlapack eval` concluded: role → its `summary.json`, where there is one.

    Raises:
        InputError: one is damaged.
    """
    return {role: found for role in plan.policies if (found := _summary(folder, plan, role)) is not None}


def _summary(folder: Path, plan: Plan, role: str) -> dict[str, Any] | None:
    if plan.is_sweep:
        folder = folder / "policies" / role
    elif role != "policy":
        folder = folder / role
    path = folder / SUMMARY_FILE
    if not is_file(path):
        return None
    found = read_json(path)
    kinds = {"versions": dict, "verdict": str}
    whole = all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    if not (whole and _is_floor(found.get("noise_floor")) and _is_sequential(found.get("sequential"))):
        raise InputError(f"{path} is damaged; remove it, and the same `vlapack eval` command writes it again")
    return found


def _is_floor(floor: object) -> bool:
    if floor is None:
        return True
    numbers = ("episodes", "discordant", "drop", "drop_upper95")
    return (
        isinstance(floor, dict)
        and all(isinstance(floor.get(key), int | float) for key in numbers)
        and all(isinstance(floor.get(key), str) for key in ("kind", "source"))
        and _is_interval(floor.get("drop_ci95"))
    )


def _is_sequential(found: object) -> bool:
    if found is None:
        return True
    kinds = {"of": str, "half_width_wanted": float, "cases": int, "planned_cases": int, "reached": bool}
    return (
        isinstance(found, dict)
        and all(isinstance(found.get(key), kind) for key, kind in kinds.items())
        and _is_interval(found.get("interval95"))
    )


def _is_interval(found: object) -> bool:
    return isinstance(found, list) and [type(end) in (int, float) for end in found] == [True, True]


def first_problem(error: ValidationError) -> str:
    """Say in a few words what pydantic did not like first."""
    found = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, found["loc"]))
    return f"{place}: {found['msg']}" if place else str(found["msg"])
