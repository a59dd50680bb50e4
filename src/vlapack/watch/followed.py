"""A run's folder, read again and again while others write to it: the whole run, one shard, or all shards together."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlapack.documents import is_file
from vlapack.errors import InputError, WorkError
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import Case, Plan
from vlapack.evaluate.shard import FOLDER, SHARD, Shard, parse_shard
from vlapack.files import is_locked
from vlapack.report.reading import EPISODES_FILE, PLAN_FILE, read_plan, read_record, read_summaries
from vlapack.watch.pace import KEPT, Pace
from vlapack.watch.tail import ReplacedError, Tail

MISSING, FAILURE, SUCCESS, NO_RESULT = range(4)
"""What became of a case: one byte of `Followed.results`."""

FAILURES = 200
"""The newest failures of a role that are remembered."""

SECONDS_BETWEEN_QUESTIONS = 10.0
"""Who asks whether a file is locked holds its lock for a moment: that is asked rarely, and not while the run grows."""


@dataclass
class Part:
    """A folder with episodes: of the whole run, or of a shard."""

    folder: Path
    shard: Shard | None
    tail: Tail
    seen: bool = False
    """Whether it was looked at before; what it held until then is no news."""


class Followed:
    """A run as it was at the last look.

    Args:
        folder: what `vlapack eval` or `sweep` writes to.
        keep: whether `records` is wanted; it takes some kilobytes an episode.
        clock: seconds since 1970, as files have them.

    Attributes:
        plan: of the run; of a shard's folder, the whole run's.
        cases: places in the plan of the cases that are to be played here.
        results: role → what became of every case of the plan.
        failures: role → the newest, each with its place in the order in which all were read.
        records: role → case → the newest record.
        parts: the run's own folder if it has episodes, and its shards.
        writing: whether a process writes there, as far as the disk can say.
        heard: when the last episode ended; None: none has.
        stored: role → its `summary.json`, once nobody plays.

    Raises:
        InputError: there is no run, or it is damaged.
    """

    plan: Plan
    cases: range
    writing: bool
    heard: float | None

    def __init__(self, folder: Path, *, keep: bool = False, clock: Callable[[], float] = time.time) -> None:
        if not run_folders(folder):
            raise _no_run(folder)
        self.folder, self._keep, self.clock = folder, keep, clock
        self.parts: dict[Path, Part] = {}
        self._begin()

    def look(self) -> int:
        """Take in what has come since the last look; return how many episodes.

        Raises:
            InputError: the run is damaged, or two runs are mixed.
            WorkError: the folder is gone.
        """
        try:
            self._find_parts(run_folders(self.folder))
            found = [part for part in self.parts.values() if not part.seen]
            new = sum(self._take(part) for part in self.parts.values() if part.seen)
            for part in found:
                self._take(part)
        except ReplacedError:  # `vlapack merge` writes the record again, and the run may be begun again
            return self._begin()
        now = self.clock()
        if new:
            self.heard, self.writing, self._asked = now, True, now
        elif found or now - self._asked >= SECONDS_BETWEEN_QUESTIONS:
            self.heard = self.heard or self._last_written()
            self._ask()
        return new

    def _begin(self) -> int:
        for part in self.parts.values():
            part.tail.close()
        folders = run_folders(self.folder)
        if not folders:
            raise WorkError(f"{self.folder} is gone, or has no run any more")
        self.plan = read_plan(folders[0] / PLAN_FILE)
        count = len(self.plan.tasks) * len(self.plan.init_states) * self.plan.noise_seeds
        shard = _shard(self.plan) if folders == [self.folder] else None
        self.cases = range(count) if shard is None else shard.places(count)
        self.results = {role: bytearray(count) for role in self.plan.policies}
        self.failures: dict[str, deque[tuple[int, Record]]] = {
            role: deque(maxlen=FAILURES) for role in self.plan.policies
        }
        self._read = 0
        self.records: dict[str, dict[Case, Record]] = {role: {} for role in self.plan.policies}
        self.pace = Pace(self.plan.policies)
        self._newest: deque[Record] = deque(maxlen=KEPT)
        self.parts = {}
        self._find_parts(folders)
        new = sum(self._take(part) for part in self.parts.values())
        self.heard = self._last_written()
        self._ask()
        if self.writing:
            self._remember_pace()
        return new

    def _find_parts(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if folder not in self.parts:
                plan = read_plan(folder / PLAN_FILE)
                if _played(plan) != _played(self.plan):
                    raise InputError(
                        f"{folder} has another plan than {next(iter(self.parts))}: two runs are mixed here; give the "
                        "folder of one"
                    )
                self.parts[folder] = Part(folder, _shard(plan), Tail(folder / EPISODES_FILE))

    def _take(self, part: Part) -> int:
        new = 0
        for line in part.tail.lines():
            record = read_record(line, self.plan, f"{part.tail.path} line {part.tail.number}")
            if record.video is not None and part.folder != self.folder:
                record = replace(record, video=os.path.relpath(part.folder / record.video, self.folder))
            self._note(record)
            new += 1
            if part.seen:
                self.pace.note(record.role, self.clock())
            else:
                self._newest.append(record)
        part.seen = True
        return new

    def _note(self, record: Record) -> None:
        self._read += 1
        number = self.plan.number(record.case)
        results = self.results[record.role]
        if number is None or (record.success is None and results[number] in (FAILURE, SUCCESS)):
            return  # a shard's simulator failed, and the merged run has played the case since
        known = results[number]
        results[number] = NO_RESULT if record.success is None else SUCCESS if record.success else FAILURE
        if results[number] == FAILURE and known != FAILURE:
            self.failures[record.role].append((self._read, replace(record, infer_ms=())))
        if self._keep:
            self.records[record.role][record.case] = record

    def _last_written(self) -> float | None:
        """Return when a file of episodes was last written; None: there is no episode."""
        paths = [part.tail.path for part in self.parts.values() if part.tail.number]
        return max((at for path in paths if (at := _written(path)) is not None), default=None)

    def _ask(self) -> None:
        self._asked = self.clock()
        paths = [part.tail.path for part in self.parts.values()]
        self.writing = any(is_locked(path) for path in paths if is_file(path))
        if not self.writing:
            self.pace.forget()
        self.stored: Mapping[str, Mapping[str, Any]] = {} if self.writing else read_summaries(self.folder, self.plan)

    def _remember_pace(self) -> None:
        """Learn when the last episodes ended from their videos, so that a long run shows its pace at once."""
        ends = [
            (at, record.role)
            for record in self._newest
            if record.video is not None and (at := _written(self.folder / record.video)) is not None
        ]
        for at, role in sorted(ends):
            self.pace.note(role, at)


def run_folders(folder: Path) -> list[Path]:
    """Return where the episodes of a run are: the folder itself if it has a plan, then its shards in order."""
    return list(_run_folders(folder))


def _run_folders(folder: Path) -> Iterator[Path]:
    if is_file(folder / PLAN_FILE):
        yield folder
    try:
        shards = sorted(entry.name for entry in os.scandir(folder / FOLDER) if is_file(Path(entry.path) / PLAN_FILE))
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from (folder / FOLDER / name for name in shards)


def _no_run(folder: Path) -> InputError:
    what = "has no run in it yet" if folder.is_dir() else "is no folder" if folder.exists() else "is not there yet"
    return InputError(
        f"{folder} {what}: give the folder that `vlapack eval` or `vlapack sweep` named as it began, or `wait=True` to "
        "wait for it"
    )


def _shard(plan: Plan) -> Shard | None:
    return None if (text := plan.arithmetic.get(SHARD)) is None else parse_shard(str(text))


def _played(plan: Plan) -> tuple[Any, ...]:
    """Return what all parts of a run have in common."""
    return plan.tasks, plan.init_states, plan.noise_seeds, plan.seed, plan.policies


def _written(path: Path) -> float | None:
    """Return when a file was last written; None where there is none."""
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return None
