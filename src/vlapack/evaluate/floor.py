"""The noise floor: how often a float policy disagrees with itself. A pack that does so as often may have lost nothing.

Two kinds can be played. Other flow noise on the same starts shows how much chance decides. bfloat16 arithmetic with the
same noise shows how much any rounding decides: the nearer comparison for a pack, but slow on CPUs without bfloat16
instructions. A policy's folder may also bring a floor that was measured before.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlapack.checkpoints import SHIPPED
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.evaluate.contender import Contender, contender
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import BF16_FLOOR, NOISE_FLOOR
from vlapack.evaluate.statistics import Paired, drop_upper95, wilson

THIS_RUN = "this run"
"""The source of a floor that was played beside the policy."""

FILE = "noise_floor.json"
"""In a policy's folder: a floor, and the digest of the weights that it was measured with."""


def parents(baseline: str, options: Mapping[str, Any], *, noise_floor: bool, bf16_floor: bool) -> list[Contender]:
    """Open the baseline, and after it whoever plays the floor.

    Args:
        baseline: the float policy's folder.
        options: the arguments of `contender.contender`.
        noise_floor: it plays once more with other noise.
        bf16_floor: it plays once more in bfloat16.

    Raises:
        InputError: both floors are asked for, or bfloat16 is to be compared with itself.
    """
    if noise_floor and bf16_floor:
        raise InputError("`noise_floor` and `bf16_floor` are two kinds of floor: give one")
    if bf16_floor and options["dtype"] == "bfloat16":
        raise InputError("`bf16_floor` compares bfloat16 with float32, but `dtype` is bfloat16")
    if bf16_floor and baseline.startswith(("ws://", "wss://")):
        raise InputError(f"`bf16_floor`: {baseline} computes as its server was started; give the policy's folder")
    first, _ = contender("baseline", baseline, **options)
    if noise_floor:
        return [first, replace(first, role=NOISE_FLOOR)]
    if bf16_floor:
        rounded, _ = contender(BF16_FLOOR, baseline, **{**options, "dtype": "bfloat16"})
        return [first, replace(rounded, identity={**rounded.identity, "dtype": "bfloat16"})]
    return [first]


def noise_floor(
    baseline: Sequence[Record], again: Sequence[Record], *, kind: str, source: str = THIS_RUN
) -> dict[str, Any] | None:
    """Compare the baseline's second run with its first: `floor_of_pairs` of their records.

    Args:
        baseline: its episodes.
        again: the same cases, played once more.
        kind: what differed, in words.
        source: where the figures come from.
    """
    first = {record.case: bool(record.success) for record in baseline if record.error is None}
    pairs = [
        (record.case.start, bool(record.success), first[record.case])
        for record in again
        if record.error is None and record.case in first
    ]
    return floor_of_pairs(pairs, kind=kind, source=source)


def floor_of_pairs(pairs: Sequence[tuple[Hashable, bool, bool]], *, kind: str, source: str) -> dict[str, Any] | None:
    """Put a float policy's disagreement with itself into numbers.

    Args:
        pairs: (start, success the second time, success the first time), one per episode.
        kind: what differed, in words.
        source: where the figures come from.

    Returns:
        `kind`, `source`, `episodes` (pairs), `success_rate` and `ci95` of the second run, `discordant` and of those
        `only_baseline` (lost the second time) and `only_floor` (won), `drop` (first minus second) with `drop_ci95`
        and `drop_upper95`. Rates are fractions. None: there is no pair.
    """
    if not pairs:
        return None
    paired = Paired.of((again, first) for _, again, first in pairs)
    low, high = paired.difference_interval()
    won = paired.both + paired.only_policy
    return {
        "kind": kind,
        "source": source,
        "episodes": paired.episodes,
        "success_rate": won / paired.episodes,
        "ci95": list(wilson(won, paired.episodes)),
        "discordant": paired.only_policy + paired.only_baseline,
        "only_baseline": paired.only_baseline,
        "only_floor": paired.only_policy,
        "drop": 0.0 - paired.difference,  # not -0.0
        "drop_ci95": [-high, -low],
        "drop_upper95": drop_upper95(pairs),
    }


def committed_floor(name: str, weights: str | None) -> dict[str, Any] | None:
    """Read the floor that comes with a policy; one of other weights is not used, which is said.

    Args:
        name: the policy's folder, or what it is shipped as.
        weights: their digest.

    Raises:
        InputError: the file is not what `benchmarks/closed_loop_large.py` writes.
    """
    path = SHIPPED.get(name, Path(name)) / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        measured_with, floor = found["weights"], {key: found[key] for key in _KEYS}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a noise floor ({error!r}); remove it, or measure one with a run") from error
    if measured_with != weights:
        say(f"{path} was measured with different weights; it is ignored")
        return None
    return floor


_KEYS = (
    *("kind", "source", "episodes", "success_rate", "ci95", "discordant", "only_baseline", "only_floor"),
    *("drop", "drop_ci95", "drop_upper95"),
)
