"""The record of an evaluation: `plan.json` and `episodes.jsonl`, one line per finished episode.

Lines are only ever appended, each complete and flushed to the disk before the next episode is counted. A run that was
killed loses at most the episodes that were under way; the same command continues after the last complete line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from vlapack.console import say
from vlapack.errors import InputError, WorkError
from vlapack.evaluate.clock import with_clock
from vlapack.evaluate.ledger import Ledger, Record
from vlapack.evaluate.plan import Case, Plan
from vlapack.evaluate.shard import SHARD, Shard
from vlapack.files import sync, try_lock, write_json
from vlapack.fingerprint import THREADS, taken_up

ATTEMPTS, SECONDS_BETWEEN_ATTEMPTS = 5, 0.05
"""To get the lock."""


class Store:
    """An output folder opened for one run; a second run at the same time is refused.

    Use it as a context manager. Cases that ended with a simulator error count as missing: the next run tries them
    again, and a record's newest line is the one that counts.

    Attributes:
        out: the folder.
        cases: those that are to be played here.
        threads: how many the run that began computed with; None: the plan does not say.
    """

    def __init__(self, out: Path, plan: Plan, shard: Shard | None = None) -> None:
        """Open or continue `out`.

        Args:
            out: the folder.
            plan: of all episodes.
            shard: which of them are played here; None: all.

        Raises:
            InputError: `out` holds another plan, or a line in the middle of its record is damaged.
            WorkError: another process is writing there.
        """
        self.out = out
        self._plan = plan
        self._shard = shard
        self.cases = plan.cases() if shard is None else shard.of(plan.cases())
        self._path = out / "episodes.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            sync(out)  # the file's name; its lines are synced as they come
            self.threads: int | None = self._agreed().get(THREADS)
            self._ledger = self._read()
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
        data = record.line()
        try:
            written = os.write(self._file, data)
            os.fsync(self._file)
        except OSError as error:
            raise WorkError(f"{self._path} cannot be written ({error}); the same command continues here") from error
        if written != len(data):  # a full disk may take a part; the torn line is dropped by the next run
            raise WorkError(f"{self._path}: only {written} of {len(data)} bytes could be written; is the disk full?")
        self._ledger.note(record, len(data))

    def records(self, role: str) -> list[Record]:
        """The newest record of every case of one policy, in the plan's order."""
        return list(self._ledger.read(role))

    def find(self, role: str, case: Case) -> Record | None:
        """The newest record of one case of one policy."""
        return self._ledger.find(role, case)

    def missing(self, role: str, cases: Iterable[Case] | None = None) -> list[Case]:
        """Cases which have no result yet: never run, or ended by a simulator error.

        Args:
            role: whose.
            cases: those that are asked for; None: all that are to be played here.
        """
        wanted = self.cases if cases is None else cases
        return [case for case in wanted if not self._ledger.has_result(role, case)]

    def _lock(self) -> None:
        # Who asks whether a run is under way (`report`, `watch`, `merge`) holds its lock for a moment.
        for _ in range(ATTEMPTS):
            if try_lock(self._file):
                return
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)
        raise WorkError(f"another evaluation is writing to {self.out}; wait for it, or give another `out`")

    def _agreed(self) -> dict[str, Any]:
        """Return the plan of the episodes that are here; its own where none are."""
        path = self.out / "plan.json"
        part = {} if self._shard is None else {SHARD: str(self._shard)}
        wanted: dict[str, Any] = json.loads(json.dumps({**self._plan.to_dict(), **part}))
        if path.exists():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise InputError(f"{path} is not JSON ({error}); give another `out`, or remove the folder") from error
            begun, lines = taken_up(with_clock(stored), with_clock(wanted))
            if lines:
                listed = "\n  ".join(lines)
                raise InputError(
                    f"{self.out} holds the episodes of another plan:\n  {listed}\n"
                    "give another `out`, or run the command that began this one"
                )
            return begun
        if self._path.stat().st_size:
            raise InputError(f"{self.out} has episodes.jsonl but no plan.json to continue; give another `out`")
        write_json(path, wanted)
        return wanted

    def _read(self) -> Ledger:
        ledger = Ledger(self._path, self._plan)
        if ledger.torn:
            say(f"{self._path}: dropped a torn last line ({ledger.torn} bytes): its episode is run again")
            os.truncate(self._file, ledger.size)
        return ledger
