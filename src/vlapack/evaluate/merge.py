"""Shards of one plan become one folder, as if one machine had played it all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlapack.console import say
from vlapack.documents import read_json
from vlapack.errors import InputError
from vlapack.evaluate.ledger import Ledger, Record
from vlapack.evaluate.plan import ARITHMETIC, Case, Plan, plan_of
from vlapack.evaluate.shard import FOLDER, SHARD, Shard, parse_shard
from vlapack.files import is_locked, replaced, write_json
from vlapack.fingerprint import differences

PLAN_FILE, EPISODES_FILE = "plan.json", "episodes.jsonl"
MOST_NAMED = 8


@dataclass(frozen=True)
class Part:
    """A folder with episodes of a plan: a shard, or (`shard` None) what was merged or played in one piece before."""

    folder: Path
    document: Mapping[str, Any]
    shard: Shard | None
    ledger: Ledger

    def __str__(self) -> str:
        """Name it in a message."""
        return str(self.folder) if self.shard is None else f"shard {self.shard} ({self.folder})"


def merge(out: Path, others: Sequence[Path] = (), *, partial: bool = False) -> tuple[Plan, dict[str, list[Record]]]:
    """Put all shards of `out` into one `episodes.jsonl` there, and return all records by role.

    What is in `out` already stays. Videos stay in their shards, and the records point there.

    Args:
        out: the evaluation's output folder.
        others: more folders of shards, of another cluster for example.
        partial: merge although shards or episodes are missing, which is said.

    Raises:
        InputError: no shards, shards of another plan or of another number of parts, missing ones, episodes that two
            shards played with different results, or a shard that is still being played.
    """
    parts = [_open(folder) for folder in _folders(out, others)]
    shards = [part for part in parts if part.shard is not None]
    if not shards:
        raise InputError(f"{out} has no shards: `shard='1/8'` with this `out` plays one")
    document = _common_plan(parts)
    plan = plan_of(document)
    chosen = {role: _choose(plan, role, parts) for role in plan.policies}
    lacking = _missing_shards(shards) + _missing_episodes(plan, parts, shards)
    if lacking and not partial:
        listed = "\n  ".join(lacking)
        raise InputError(
            f"{out} is not complete:\n  {listed}\nplay what is missing, or give `partial=True` to merge what is there"
        )
    for line in lacking:
        say(f"merged without: {line}")
    with replaced(out / EPISODES_FILE) as draft, draft.open("wb") as file:
        for role, sources in chosen.items():
            for case, part in zip(plan.cases(), sources, strict=True):
                if part is not None and (record := part.ledger.find(role, case)) is not None:
                    file.write(_moved(record, part.folder, out).line())
    write_json(out / PLAN_FILE, document)
    merged = Ledger(out / EPISODES_FILE, plan)
    return plan, {role: list(merged.read(role)) for role in plan.policies}


def _folders(out: Path, others: Sequence[Path]) -> Iterator[Path]:
    if (out / PLAN_FILE).exists():
        yield out
    for place in (out, *others):
        inside = sorted(path.parent for path in (place / FOLDER).glob(f"*/{PLAN_FILE}"))
        if not inside and place != out:
            if not (place / PLAN_FILE).exists():
                raise InputError(f"{place} is not a shard, and has none in {FOLDER}/")
            inside = [place]
        yield from inside


def _open(folder: Path) -> Part:
    document = read_json(folder / PLAN_FILE)
    episodes = folder / EPISODES_FILE
    if not episodes.exists():
        raise InputError(f"{folder} has a {PLAN_FILE} and no {EPISODES_FILE}; remove it")
    if is_locked(episodes):
        raise InputError(f"{folder} is being played at this moment; wait until it is done")
    shard = document.pop(SHARD, None)
    try:
        plan = plan_of(document)
        return Part(folder, document, None if shard is None else parse_shard(str(shard)), Ledger(episodes, plan))
    except InputError as error:
        raise InputError(f"{folder / PLAN_FILE}: {error}") from error


def _common_plan(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the plan that all parts agree on, without what computed where that differs."""
    first = parts[0]
    apart = {key for key in ARITHMETIC if any(part.document.get(key) != first.document.get(key) for part in parts)}

    def played(part: Part) -> dict[str, Any]:
        return {key: value for key, value in part.document.items() if key not in apart}

    for part in parts[1:]:
        if lines := differences(played(first), played(part)):
            listed = "\n  ".join(line.replace(" there, ", f" in {first}, ").replace(" here", "") for line in lines)
            raise InputError(f"{part} is from another plan than {first}:\n  {listed}\nmerge only shards of one command")
    for key in sorted(apart):
        values = sorted({repr(part.document.get(key)) for part in parts})
        say(
            f"the parts were computed with different {key}: {', '.join(values)}. Each pair is of one machine, but no "
            "machine can play all of it again to the last bit"
        )
    return played(first)


def _missing_shards(shards: Sequence[Part]) -> list[str]:
    counts = sorted({part.shard.count for part in shards if part.shard is not None})
    if len(counts) > 1:
        raise InputError(
            f"shards of {' and of '.join(map(str, counts))} parts are mixed; merge those of the same number"
        )
    there = {part.shard.index for part in shards if part.shard is not None}
    missing = [f"{index}/{counts[0]}" for index in range(1, counts[0] + 1) if index not in there]
    return [f"no shard {', '.join(missing)}"] if missing else []


def _missing_episodes(plan: Plan, parts: Sequence[Part], shards: Sequence[Part]) -> list[str]:
    cases, lines = plan.cases(), []
    for part in shards:
        if part.shard is None:
            continue
        own = part.shard.of(cases)
        left = sum(
            not any(other.ledger.has_result(role, case) for other in parts) for role in plan.policies for case in own
        )
        if left:
            lines.append(f"{part} lacks {left} of {len(own) * len(plan.policies)} episodes")
    return lines


def _choose(plan: Plan, role: str, parts: Sequence[Part]) -> list[Part | None]:
    """Return, case by case, the part that has its result; one with an error where there is nothing else.

    Raises:
        InputError: two parts played a case with different results.
    """
    chosen: list[Part | None] = []
    for case in plan.cases():
        played = [part for part in parts if part.ledger.has_result(role, case)]
        for other in played[1:]:
            _require_same(role, case, played[0], other)
        failed = () if played else (part for part in parts if part.ledger.has_line(role, case))
        chosen.append(next(iter((*played, *failed)), None))
    return chosen


def _require_same(role: str, case: Case, one: Part, other: Part) -> None:
    first, second = one.ledger.find(role, case), other.ledger.find(role, case)
    if first is None or second is None:
        return
    if (first.success, first.steps) != (second.success, second.steps):
        raise InputError(
            f"{role}, {case}: {_result(first)} in {one}, {_result(second)} in {other}; remove the folder that is wrong"
        )


def _result(record: Record) -> str:
    return f"{'success' if record.success else 'failure'} after {record.steps} steps"


def _moved(record: Record, folder: Path, out: Path) -> Record:
    return record if record.video is None else replace(record, video=os.path.relpath(folder / record.video, out))
