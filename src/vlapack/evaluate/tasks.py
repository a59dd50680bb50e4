"""From what a user names (suites, ids, ranges) to the tasks and init states of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlapack.errors import InputError

SUITES = "libero_spatial, libero_object, libero_goal, libero_10, libero_90"


def listed_tasks(metadata: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the tasks that a policy says it was trained for: `{"tasks": {suite: [ids]}}` of its metadata, or {}."""
    tasks = metadata.get("tasks", {})
    return {str(suite): [int(task) for task in ids] for suite, ids in tasks.items()}


def choose_tasks(
    suites: str | None, task_ids: str | None, listed: Mapping[str, Sequence[int]], count: Callable[[str], int]
) -> tuple[tuple[str, int], ...]:
    """Decide which tasks are played.

    Args:
        suites: comma list of suites; None: those the policy lists.
        task_ids: ids and ranges ("0,3,6-7") within one suite; None: those the policy lists, or the whole suite.
        listed: the tasks that the policy was trained for, by suite; empty if it does not say.
        count: number of tasks of a suite; raises InputError for an unknown one.

    Raises:
        InputError: no suite is named, ids go with several suites, or an id is outside its suite.
    """
    if suites is None and not listed:
        raise InputError(f"the policy does not say which tasks it was trained for: give `suite` ({SUITES})")
    names = list(listed) if suites is None else [name.strip() for name in suites.split(",") if name.strip()]
    if task_ids is not None and len(names) != 1:
        raise InputError(f"`task_ids={task_ids!r}` needs exactly one `suite` to belong to; there are {names}")
    chosen = []
    for suite in names:
        size = count(suite)
        ids = integers("task_ids", task_ids) if task_ids is not None else listed.get(suite, range(size))
        if outside := [task for task in ids if task >= size]:
            raise InputError(f"{suite} has tasks 0 to {size - 1}, not {outside[0]}")
        chosen += [(suite, task) for task in ids]
    return tuple(chosen)


def choose_init_states(trials: int | None, init_states: str | None, default: int = 10) -> tuple[int, ...]:
    """Return the official init states to start from: the named ones, or 0 to trials - 1.

    Raises:
        InputError: both are given, or neither means at least one.
    """
    if trials is not None and init_states is not None:
        raise InputError(f"`trials={trials}` and `init_states={init_states!r}` both say how many episodes: give one")
    if init_states is not None:
        return integers("init_states", init_states)
    trials = default if trials is None else trials
    if trials < 1:
        raise InputError(f"`trials={trials}`: each task needs at least one episode")
    return tuple(range(trials))


def integers(field: str, text: str) -> tuple[int, ...]:
    """Parse "0,3,6-8", the value of the setting `field`, into (0, 3, 6, 7, 8).

    Raises:
        InputError: a piece is no number and no rising range of numbers.
    """
    found: list[int] = []
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() for end in ends) or int(ends[0]) > int(ends[1]):
            raise InputError(f"`{field}={text!r}`: {piece!r} is neither a number nor a range such as 0-19")
        found += range(int(ends[0]), int(ends[1]) + 1)
    return tuple(found)
