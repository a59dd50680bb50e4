"""A folder that `vlapack eval` wrote, read without touching it: finished, stopped, or still being written.

Everything that a page says of a run follows from `plan.json` and `episodes.jsonl`, by the evaluation's own statistics.
`summary.json` adds what the episodes do not hold: the versions of that machine, and a noise floor measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vlapack.documents import is_file, open_regular, read_json
from vlapack.errors import InputError
from vlapack.evaluate.floor import KINDS, noise_floor
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import PLAN_VERSION, Case, Plan
from vlapack.evaluate.statistics import Paired
from vlapack.evaluate.summary import summarize
from vlapack.files import is_locked

PLAN_FILE, EPISODES_FILE, SUMMARY_FILE = "plan.json", "episodes.jsonl", "summary.json"
PLAN_TYPE = "vlapack.evaluation"
BASELINE = "baseline"
_PLAN_FIELDS = ("tasks", "init_states", "noise_seeds", "seed", "replan", "hard_reset", "engine", "simulator")
_RECORD = TypeAdapter(Record)
_PLAN = TypeAdapter(Plan)


@dataclass(frozen=True)
class Pair:
    """One case as both policies played it; either may be missing, or without a result."""

    case: Case
    packed: Record | None
    floating: Record | None

    @property
    def comparable(self) -> bool:
        """Whether both have a result."""
        return all(record is not None and record.success is not None for record in (self.packed, self.floating))

    @property
    def outcome(self) -> str:
        """Who succeeded: `both`, `only float`, `only packed`, `neither`; `no result` where one has none."""
        if self.floating is None and self.packed is not None and self.packed.success is not None:
            return "success" if self.packed.success else "failure"
        if self.packed is None or self.floating is None or not self.comparable:
            return "no result"
        names = {
            (True, True): "both",
            (False, True): "only float",
            (True, False): "only packed",
            (False, False): "neither",
        }
        return names[bool(self.packed.success), bool(self.floating.success)]

    @property
    def steps_apart(self) -> int:
        """By how many steps the two episodes differ in length."""
        return abs(self.packed.steps - self.floating.steps) if self.packed and self.floating else 0


@dataclass(frozen=True)
class Run:
    """An evaluation's folder.

    Attributes:
        records: role → case → the newest record.
        under_way: whether a process is writing to it.
        torn: whether its last line is a part of one.
        stored: role → its `summary.json`; a run that is not finished has none.
    """

    folder: Path
    plan: Plan
    records: Mapping[str, Mapping[Case, Record]]
    under_way: bool
    torn: bool
    stored: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run.

        Raises:
            InputError: it is damaged; the message names the file and the line.
        """
        plan = _plan(folder / PLAN_FILE)
        path = folder / EPISODES_FILE
        if not is_file(path):
            raise InputError(
                f"{folder} has {PLAN_FILE} but no {EPISODES_FILE}: no episode was played; run `vlapack eval`"
            )
        under_way = is_locked(path)  # asked first: what is finished while we read is whole
        with open_regular(path) as file:
            text = file.read()
        whole = text.rfind(b"\n") + 1
        records: dict[str, dict[Case, Record]] = {role: {} for role in plan.policies}
        cases = set(plan.cases())
        for number, line in enumerate(text[:whole].split(b"\n")[:-1], 1):
            record = _record(line, f"{path} line {number}")
            if record.role not in records or record.case not in cases:
                raise InputError(
                    f"{path} line {number}: {record.role} on {record.case} is not in {PLAN_FILE}: two runs are mixed "
                    "here; evaluate again with another `out`"
                )
            records[record.role][record.case] = record
        stored = {role: found for role in plan.policies if (found := _summary(folder, role)) is not None}
        return cls(folder, plan, records, under_way, whole < len(text), stored)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every policy of the run but the baseline and its noise floors."""
        apart = {BASELINE, *KINDS}
        return [Comparison(self, role) for role in self.plan.policies if role not in apart]

    def of(self, role: str) -> list[Record]:
        """The records of one policy, in the plan's order."""
        found = self.records.get(role, {})
        return [found[case] for case in self.plan.cases() if case in found]

    @property
    def episodes(self) -> int:
        """How many episodes have a record, of all policies."""
        return sum(map(len, self.records.values()))

    @property
    def planned(self) -> int:
        """How many the plan asks for, of all policies."""
        return len(self.plan.cases()) * len(self.plan.policies)

    @property
    def state(self) -> str | None:
        """One sentence if the run is not finished, else None."""
        if self.episodes == self.planned:
            return None
        so_far = f"{self.episodes} of {self.planned} episodes"
        if self.under_way:
            return f"The run is still under way: {so_far}. This page shows what was there when it was written."
        return f"The run stopped after {so_far}. The same `vlapack eval` command, into the same folder, plays the rest."


@dataclass(frozen=True)
class Comparison:
    """One policy of a run, against the baseline if there is one."""

    run: Run
    role: str

    @property
    def name(self) -> str:
        """What the user called the policy."""
        return str(self.run.plan.policies[self.role].get("name", self.role))

    @property
    def baseline(self) -> str | None:
        """What the user called the float parent."""
        found = self.run.plan.policies.get(BASELINE)
        return None if found is None else str(found.get("name", BASELINE))

    @cached_property
    def pairs(self) -> list[Pair]:
        """The cases that either policy has played, in the plan's order."""
        ours, theirs = self.run.records[self.role], self.run.records.get(BASELINE, {})
        found = [Pair(case, ours.get(case), theirs.get(case)) for case in self.run.plan.cases()]
        return [pair for pair in found if pair.packed or pair.floating]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`evaluate.summary.summarize` of the episodes so far, with what `summary.json` knows beyond them."""
        run, stored = self.run, self.run.stored.get(self.role, {})
        baseline = run.of(BASELINE) if self.baseline is not None else None
        floor = stored.get("noise_floor")
        for kind in KINDS.keys() & run.plan.policies.keys():
            floor = noise_floor(run.of(BASELINE), run.of(kind), kind=KINDS[kind])
        found = summarize(run.plan, run.of(self.role), baseline, names=(self.name, self.baseline), floor=floor)
        return found | {"versions": stored.get("versions")}

    @cached_property
    def paired(self) -> Paired | None:
        """The episodes by who succeeded; None without a baseline."""
        found = self.summary["paired"]
        if found is None:
            return None
        return Paired(found["both"], found["only_policy"], found["only_baseline"], found["neither"])

    def disagreements(self) -> list[Pair]:
        """The comparable pairs, the worst first.

        What the float policy alone can do comes first, then what the packed one alone can do, then the others; within
        each, those whose lengths differ most.
        """
        order = {"only float": 0, "only packed": 1}
        return sorted(
            (pair for pair in self.pairs if pair.comparable),
            key=lambda pair: (order.get(pair.outcome, 2), -pair.steps_apart, pair.case),
        )


def is_run(folder: Path) -> bool:
    """Whether a folder is an evaluation's: it has the plan of one, or its episodes."""
    return is_file(folder / PLAN_FILE) or is_file(folder / EPISODES_FILE)


def _plan(path: Path) -> Plan:
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


def _record(line: bytes, place: str) -> Record:
    try:
        return _RECORD.validate_json(line, strict=True)
    except ValidationError as error:
        raise InputError(f"{place} is damaged: {first_problem(error)}; remove that line") from error


def _summary(folder: Path, role: str) -> dict[str, Any] | None:
    path = (folder if role == "policy" else folder / role) / SUMMARY_FILE
    if not is_file(path):
        return None
    found = read_json(path)
    floor = found.get("noise_floor")
    kinds = {"versions": dict, "verdict": str}
    if any(not isinstance(found.get(key), kind) for key, kind in kinds.items()) or not _is_floor(floor):
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
        and isinstance(floor.get("drop_ci95"), list)
        and [type(end) in (int, float) for end in floor["drop_ci95"]] == [True, True]
    )


def first_problem(error: ValidationError) -> str:
    """Say in a few words what pydantic did not like first."""
    found = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, found["loc"]))
    return f"{place}: {found['msg']}" if place else str(found["msg"])


def all_comparisons(runs: Sequence[Run]) -> Iterator[Comparison]:
    """Every policy of every run."""
    for run in runs:
        yield from run.comparisons
