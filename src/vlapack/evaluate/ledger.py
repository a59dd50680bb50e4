"""The lines of an `episodes.jsonl`, and where in the file each case's newest one is.

Of an episode nothing is kept in memory but nine bytes: a run of 100,000 needs no more of it at its end than at its
start.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vlapack.errors import InputError
from vlapack.evaluate.plan import Case, Plan
from vlapack.libero.clock import Timing


@dataclass(frozen=True, slots=True)
class Record:
    """One finished episode of one policy: a line of `episodes.jsonl`.

    Attributes:
        role: which policy of the plan acted.
        suite, task_id, init_state: the case.
        success: whether the simulator reported the goal; None if the simulator failed (see `error`).
        steps: simulator steps under the policy's control (the idle steps at the start do not count).
        infer_ms: milliseconds of every chunk asked for, without the transport to and from the worker.
        seconds: wall time of the episode, rendering and waiting included.
        held_bytes, mapped_bytes: of the policy's weights: held in memory, and read from the mapped file.
        video: path relative to the output folder, or None.
        error: the simulator's failure, after one retry; such an episode is neither success nor failure.
        noise: which of the plan's noise seeds; a line leaves out 0.
        timing: what the policy's latency did; a line leaves it out where time stands still.
        prompt: the instruction that the policy was given; a line leaves it out where it is not known.
    """

    role: str
    suite: str
    task_id: int
    init_state: int
    success: bool | None
    steps: int
    infer_ms: tuple[float, ...]
    seconds: float
    held_bytes: int
    mapped_bytes: int
    video: str | None = None
    error: str | None = None
    noise: int = 0
    timing: Timing | None = None
    prompt: str | None = None

    @property
    def case(self) -> Case:
        """The episode's place in the plan."""
        return Case(self.suite, self.task_id, self.init_state, self.noise)

    def to_dict(self) -> dict[str, Any]:
        """Return the line as JSON."""
        row = asdict(self)
        if self.noise == 0:
            del row["noise"]
        for name in ("timing", "prompt"):
            if row[name] is None:
                del row[name]
        return row

    def line(self) -> bytes:
        """Return the line of `episodes.jsonl`."""
        return (json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False) + "\n").encode()


OPTIONAL = {"noise", "timing", "prompt"}
RECORD_FIELDS = {field.name for field in fields(Record)} - OPTIONAL


class Ledger:
    """What is in an `episodes.jsonl` of a plan. Lines of other roles and cases are left alone.

    Attributes:
        path: the file.
        size: bytes of its complete lines.
        torn: bytes after them, which a killed run left.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        """Read the file.

        Raises:
            InputError: a line that is not the last is damaged.
        """
        self.path = path
        self.size = self.torn = 0
        self._plan = plan
        cases = len(plan.tasks) * len(plan.init_states) * plan.noise_seeds
        self._offsets = {role: array("q", [-1]) * cases for role in plan.policies}
        self._failed = {role: bytearray(cases) for role in plan.policies}
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    self.note(self._parse(line, number), len(line))
                else:
                    self.torn = len(line)

    def note(self, record: Record, length: int) -> None:
        """Count a line of `length` bytes, which the file now ends with."""
        number = self._plan.number(record.case)
        if record.role in self._offsets and number is not None:
            self._offsets[record.role][number] = self.size
            self._failed[record.role][number] = record.error is not None
        self.size += length

    def has_line(self, role: str, case: Case) -> bool:
        """Whether a case was tried."""
        return self._offsets[role][self._number(case)] >= 0

    def has_result(self, role: str, case: Case) -> bool:
        """Whether a case was played to its end."""
        return self.has_line(role, case) and not self._failed[role][self._number(case)]

    def find(self, role: str, case: Case) -> Record | None:
        """Return the newest record of one case; None: there is none."""
        if (offset := self._offsets[role][self._number(case)]) < 0:
            return None
        with self.path.open("rb") as file:
            file.seek(offset)
            return self._parse(file.readline(), None)

    def read(self, role: str) -> Iterator[Record]:
        """Read the newest record of every case of one policy, in the plan's order."""
        with self.path.open("rb") as file:
            for offset in self._offsets[role]:
                if offset >= 0:
                    file.seek(offset)
                    yield self._parse(file.readline(), None)

    def _number(self, case: Case) -> int:
        number = self._plan.number(case)
        if number is None:
            raise ValueError(f"{case} is not in the plan of {self.path}")
        return number

    def _parse(self, line: bytes, number: int | None) -> Record:
        where = f"{self.path} line {number}" if number else f"{self.path}"
        try:
            row = json.loads(line.decode(errors="replace"))
        except json.JSONDecodeError as error:
            raise InputError(f"{where} is damaged ({error}); remove that line") from error
        if not isinstance(row, dict) or set(row) - OPTIONAL != RECORD_FIELDS:
            raise InputError(f"{where} is not an episode of this version; give another `out`")
        try:
            timing = _timing(row["timing"]) if "timing" in row else None
        except (KeyError, TypeError) as error:
            raise InputError(f"{where} is damaged (timing: {error!r}); remove that line") from error
        return Record(**{**row, "infer_ms": tuple(row["infer_ms"]), "timing": timing})


def _timing(row: dict[str, Any]) -> Timing:
    return Timing(**{**row, "seams": tuple(row["seams"]), "gaps": tuple(row["gaps"])})
