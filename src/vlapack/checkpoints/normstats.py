"""The rules that a table of normalization statistics keeps, wherever it was read.

One bad number here turns every action into NaN, the wrong sign or the wrong unit, and nothing later can tell. The
rules are those under which openpi's formulas (`transforms.Normalize`, `Unnormalize`) give finite actions in the
robot's units.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlapack.console import say
from vlapack.errors import InputError

# openpi adds this to every divisor (transforms.Normalize).
EPSILON = 1e-6

KEYS = ("state", "actions")
"""The entries that a policy reads; others are other embodiments' or cameras'."""

STATISTICS = ("mean", "std", "q01", "q99")
UNREAD = frozenset({"min", "max", "count", "q10", "q50", "q90"})
"""Statistics that LeRobot computes too, and that no formula of openpi's reads."""

REMEDY = "compute the statistics again (openpi: scripts/compute_norm_stats.py) or copy the file again"

Array = NDArray[np.float64]


def vector(values: Any, place: str) -> Array:
    """Read one statistic: one finite number per dimension.

    Args:
        values: what a JSON file or a tensor holds.
        place: names it in messages, e.g. `actions: q01`.

    Returns:
        float64 [D], D ≥ 1.

    Raises:
        InputError: a scalar, nothing, a nested list, or an element that is no finite number.
    """
    plain = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(plain, list):
        raise InputError(
            f"{place} is {json.dumps(plain):.40}; it must be a list with one number per dimension: {REMEDY}"
        )
    if not plain:
        raise InputError(f"{place} is empty; it must have one number per dimension: {REMEDY}")
    if isinstance(plain[0], list):
        shape = f"[{len(plain)}, {len(plain[0])}{', …' if plain[0] and isinstance(plain[0][0], list) else ''}]"
        raise InputError(
            f"{place} has shape {shape}; it must have one number per dimension. vlapack normalizes every step of a "
            f"chunk alike, so tables per time step are not supported: {REMEDY}"
        )
    for index, value in enumerate(plain):
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise InputError(f"{place}[{index}] is {json.dumps(value):.40}; statistics are finite numbers: {REMEDY}")
    return np.asarray(plain, dtype=np.float64)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        return False


def check_pair(first: Array, second: Array, names: tuple[str, str], place: str, *, slack: float = 0.0) -> None:
    """Refuse two statistics that do not go together: a deviation below zero, or a range whose ends are swapped.

    Args:
        first: [D], means or the lower ends.
        second: [D], standard deviations or the upper ends.
        names: what the two are called; ("mean", "std") or a range's, e.g. q01 and q99.
        place: whose they are, e.g. `actions`.
        slack: they may be wrong by less than this; 0: not at all.

    Raises:
        InputError: they differ in length, or one dimension is wrong.
    """
    one, other = names
    if len(first) != len(second):
        raise InputError(
            f"{place}: {one} has {len(first)} numbers and {other} {len(second)}; they must be equally many: {REMEDY}"
        )
    least = np.zeros(len(second)) if other == "std" else first
    for index in np.flatnonzero((second < least) & (second <= least - slack)):
        rule = (
            "it must be at least 0" if other == "std" else f"{one}[{index}] is {first[index]:g}, and must not be above"
        )
        raise InputError(f"{place}: {other}[{index}] is {second[index]:g}; {rule}: {REMEDY}")


def read_tables(document: Mapping[str, Any], needed: Collection[str], source: str) -> dict[str, dict[str, Array]]:
    """Read openpi's norm_stats.json document.

    What nothing reads (the statistics of other keys, or those that this normalization does not need) is kept where it
    can be, and left out with a word where it is broken: openpi does not look at it either.

    Args:
        document: the file's, with or without `norm_stats` around it.
        needed: the statistics that are read, e.g. q01 and q99.
        source: names the file in messages.

    Returns:
        Key → statistic → float64 [D].

    Raises:
        InputError: a field that means nothing here, or statistics that no formula can use.
    """
    entries = document.get("norm_stats", document)
    if entries is not document and (others := sorted(document.keys() - {"norm_stats"})):
        raise InputError(f"{source}: unknown key {others[0]!r} next to norm_stats; if nothing needs it, remove it")
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise InputError(f"{source}: not openpi's format (key -> mean, std, q01, q99): {REMEDY}")
    return {key: _table(key, entry, needed, source) for key, entry in entries.items()}


def _table(key: str, entry: Mapping[str, Any], needed: Collection[str], source: str) -> dict[str, Array]:
    if key in KEYS and (unknown := sorted(entry.keys() - UNREAD - {*STATISTICS})):
        raise InputError(
            f"{source}: {key}: unknown statistic {unknown[0]!r}; openpi's are {', '.join(STATISTICS)}: if the policy "
            "was trained without it, remove it"
        )
    found = {}
    for name in sorted(STATISTICS, key=lambda name: name not in needed):
        if entry.get(name) is None:
            continue
        try:
            found[name] = vector(entry[name], f"{source}: {key}: {name}")
        except InputError as error:
            if key in KEYS and name in needed:
                raise
            say(f"ignored, since the policy does not read it: {error}")
    return found
