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

from vlapack.documents import is_file, open_regular
from vlapack.errors import InputError
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import FLOOR_SUFFIX, FLOORS, NOISE_FLOOR, Case, Plan
from vlapack.evaluate.statistics import Paired
from vlapack.files import is_locked
from vlapack.report.reading import EPISODES_FILE, PLAN_FILE, read_plan, read_record, read_summaries


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
        """Who succeeded: `both`, `only float`, `only packed`, `neither`; `no result` where one has none.

        Of one policy alone `success` or `failure`; `not played` where it is the packed one that is missing.
        """
        if self.floating is None and self.packed is not None and self.packed.success is not None:
            return "success" if self.packed.success else "failure"
        if self.packed is None and self.floating is not None and self.floating.success is not None:
            return "not played"
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
        live: whether what is made of it follows it as it grows.
    """

    folder: Path
    plan: Plan
    records: Mapping[str, Mapping[Case, Record]]
    under_way: bool
    torn: bool
    stored: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    live: bool = False

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run.

        Raises:
            InputError: it is damaged; the message names the file and the line.
        """
        plan = read_plan(folder / PLAN_FILE)
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
        for number, line in enumerate(text[:whole].split(b"\n")[:-1], 1):
            record = read_record(line, plan, f"{path} line {number}")
            records[record.role][record.case] = record
        return cls(folder, plan, records, under_way, whole < len(text), read_summaries(folder, plan))

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every policy of the run but the baselines and their noise floors."""
        roles = [role for role in self.plan.policies if not self.plan.is_floor(role)]
        baselines = {self.plan.against(role) for role in roles}
        return [Comparison(self, role) for role in roles if role not in baselines]

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

    def sequential(self, role: str) -> Mapping[str, Any] | None:
        """Return what a policy's summary says of stopping early, if it is about the episodes that are here now."""
        stored = self.stored.get(role, {})
        found: Mapping[str, Any] | None = stored.get("sequential")
        played = sum(record.error is None for record in self.records.get(role, {}).values())
        return found if stored.get("episodes") == played else None

    @property
    def state(self) -> str | None:
        """One sentence if the run is not finished, else None. One that stopped early as it was asked to is finished."""
        if self.episodes == self.planned or (
            self.comparisons and all((self.sequential(each.role) or {}).get("reached") for each in self.comparisons)
        ):
            return None
        so_far = f"{self.episodes} of {self.planned} episodes"
        if self.under_way:
            seen = "" if self.live else " This page shows what was there when it was written."
            return f"The run is still under way: {so_far}.{seen}"
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
    def against(self) -> str | None:
        """The float parent's role; None: the policy plays alone."""
        return self.run.plan.against(self.role)

    @property
    def baseline(self) -> str | None:
        """What the user called the float parent."""
        return None if self.against is None else str(self.run.plan.policies[self.against].get("name", self.against))

    @cached_property
    def pairs(self) -> list[Pair]:
        """The cases that either policy has played, in the plan's order."""
        ours, theirs = self.run.records[self.role], self.run.records.get(self.against or "", {})
        found = [Pair(case, ours.get(case), theirs.get(case)) for case in self.run.plan.cases()]
        return [pair for pair in found if pair.packed or pair.floating]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`evaluate.summary.summarize` of the episodes so far, with what `summary.json` knows beyond them."""
        # They load torch, and who only reads a run needs none.
        from vlapack.evaluate.floor import noise_floor
        from vlapack.evaluate.summary import summarize

        run, stored = self.run, self.run.stored.get(self.role, {})
        baseline = None if self.against is None else run.of(self.against)
        floor = stored.get("noise_floor")
        kinds = {f"{self.against}{FLOOR_SUFFIX}": FLOORS[NOISE_FLOOR]} if run.plan.is_sweep else FLOORS
        for role in kinds.keys() & run.plan.policies.keys():
            floor = noise_floor(baseline or [], run.of(role), kind=kinds[role])
        found = summarize(
            run.plan,
            run.of(self.role),
            baseline,
            names=(self.name, self.baseline),
            floor=floor,
            sequential=run.sequential(self.role),
        )
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

    def newest_failures(self, most: int) -> list[Pair]:
        """Return up to `most` failures, the newest first.

        What the float policy can do and the packed one could not comes before all others; then the packed policy's
        other failures; then what the float policy failed at and the packed one has not played.
        """
        ours, theirs = self.run.records[self.role], self.run.records.get(self.against or "", {})
        failed = [Pair(case, record, theirs.get(case)) for case, record in ours.items() if record.success is False]
        failed.reverse()
        first = [pair for pair in failed if pair.outcome == "only float"]
        others = [pair for pair in failed if pair.outcome != "only float"]
        parent = [
            Pair(case, None, record) for case, record in theirs.items() if record.success is False and case not in ours
        ]
        return [*first, *others, *reversed(parent)][:most]


def all_comparisons(runs: Sequence[Run]) -> Iterator[Comparison]:
    """Every policy of every run."""
    for run in runs:
        yield from run.comparisons
