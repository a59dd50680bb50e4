"""The record of an evaluation: `plan.json` and `episodes.jsonl`, one line per finished episode.

Lines are only ever appended, each complete and flushed to the disk before the next episode is counted. A run that was
killed loses at most the episodes that were under way; the same command continues after the last complete line.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from vlapack.console import say
from vlapack.errors import InputError, WorkError
from vlapack.evaluate.plan import Case, Plan
from vlapack.files import sync, try_lock, write_json
from vlapack.fingerprint import THREADS, taken_up


@dataclass(frozen=True)
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

    @property
    def case(self) -> Case:
        """The episode's place in the plan."""
        return Case(self.suite, self.task_id, self.init_state, self.noise)

    def to_dict(self) -> dict[str, Any]:
        """Return the line as JSON."""
        row = asdict(self)
        if self.noise == 0:
            del row["noise"]
        return row


RECORD_FIELDS = {field.name for field in fields(Record)} - {"noise"}


class Store:
    """An output folder opened for one run; a second run at the same time is refused.

    Use it as a context manager. Cases that ended with a simulator error count as missing: the next run tries them
    again, and a record's newest line is the one that counts.

    Attributes:
        threads: how many the run that began computed with; None: the plan does not say.
    """

    def __init__(self, out: Path, plan: Plan) -> None:
        """Open or continue `out`.

        Raises:
            InputError: `out` holds another plan, or a line in the middle of its record is damaged.
            WorkError: another process is writing there.
        """
        self.out = out
        self._plan = plan
        self._path = out / "episodes.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            sync(out)  # the file's name; its lines are synced as they come
            self.threads: int | None = self._agreed().get(THREADS)
            self._records = self._read()
        except (InputError, WorkError):
            os.close(self._file)
            raise

    def __enter__(self) -> Store:
        """Return the store itself: opening and locking happened when it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the record and release its lock."""
        os.close(self._file)

    def append(self, record: Record) -> None:
        """Add one line, complete and on the disk when this returns."""
        line = json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"
        data = line.encode()
        try:
            written = os.write(self._file, data)
            os.fsync(self._file)
        except OSError as error:
            raise WorkError(f"{self._path} cannot be written ({error}); the same command continues here") from error
        if written != len(data):  # a full disk may take a part; the torn line is dropped by the next run
            raise WorkError(f"{self._path}: only {written} of {len(data)} bytes could be written; is the disk full?")
        self._records[record.role, record.case] = record

    def records(self, role: str) -> list[Record]:
        """The newest record of every case of one policy, in the plan's order."""
        return [self._records[role, case] for case in self._plan.cases() if (role, case) in self._records]

    def missing(self, role: str) -> list[Case]:
        """Cases which have no result yet: never run, or ended by a simulator error."""
        done = {record.case for record in self.records(role) if record.error is None}
        return [case for case in self._plan.cases() if case not in done]

    def _lock(self) -> None:
        if not try_lock(self._file):
            raise WorkError(f"another evaluation is writing to {self.out}; wait for it, or give another `out`")

    def _agreed(self) -> dict[str, Any]:
        """Return the plan of the episodes that are here; its own where none are."""
        path = self.out / "plan.json"
        wanted: dict[str, Any] = json.loads(json.dumps(self._plan.to_dict()))
        if path.exists():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise InputError(f"{path} is not JSON ({error}); give another `out`, or remove the folder") from error
            begun, lines = taken_up(stored, wanted)
            if lines:
                listed = "\n  ".join(lines)
                raise InputError(
                    f"{self.out} holds the episodes of another plan:\n  {listed}\n"
                    "give another `out`, or the command that began this one"
                )
            return begun
        if self._path.stat().st_size:
            raise InputError(f"{self.out} has episodes.jsonl but no plan.json to continue; give another `out`")
        write_json(path, wanted)
        return wanted

    def _read(self) -> dict[tuple[str, Case], Record]:
        text = self._path.read_bytes()
        complete = text.rfind(b"\n") + 1
        if complete < len(text):
            say(f"{self._path}: dropped a torn last line ({len(text) - complete} bytes): its episode is run again")
            os.truncate(self._file, complete)
        records = {}
        for number, line in enumerate(text[:complete].decode(errors="replace").split("\n")[:-1], 1):
            record = self._parse(line, number)
            records[record.role, record.case] = record
        return records

    def _parse(self, line: str, number: int) -> Record:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{self._path} line {number} is damaged ({error}); remove that line") from error
        if not isinstance(row, dict) or set(row) - {"noise"} != RECORD_FIELDS:
            raise InputError(f"{self._path} line {number} is not an episode of this version; give another `out`")
        return Record(**{**row, "infer_ms": tuple(row["infer_ms"])})
