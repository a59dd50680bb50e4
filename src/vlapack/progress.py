"""Progress and time left, for interleaved work too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column

from vlapack.console import say, stderr

SECONDS_BETWEEN_LINES = 10.0
WIDEST_BAR, NARROWEST_BAR = 40, 10
BESIDE_BAR = 30
"""Columns for percentage and times."""
SHORTEST_NAME = 16


class Advance(Protocol):
    """Call after each piece of work; `note` is shown beside the bar (a layer's name, a running error)."""

    def __call__(self, note: str = "", steps: int = 1) -> None:
        """Count `steps` more."""


class Show(Protocol):
    """Shows how far a piece of work has come."""

    def __call__(self, part: float, left: float, note: str = "") -> None:
        """Say which `part` of it is done, from 0 to 1, and how many seconds are `left`."""


@contextmanager
def progress(title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show how far `total` steps have come; `done` of them were finished by an earlier run."""
    start = time.monotonic()
    count = done
    with meter(title) as show:

        def advance(note: str = "", steps: int = 1) -> None:
            nonlocal count
            count += steps
            left = (time.monotonic() - start) / max(count - done, 1) * (total - count)
            show(count / total, left, f"{count}/{total} {note}")

        yield advance


@contextmanager
def meter(title: str) -> Iterator[Show]:
    """Begin a piece of work that says itself how far it is: a bar on a terminal, elsewhere lines."""
    start = last = time.monotonic()
    if stderr.is_terminal:
        # rich takes what is missing from the columns that may wrap: here only the note.
        free = stderr.width - len(title) - BESIDE_BAR
        bar_width = max(NARROWEST_BAR, min(WIDEST_BAR, stderr.width // 4, free))
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}"),
            BarColumn(bar_width, table_column=Column(no_wrap=True)),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[left]}"),
            NoteColumn(),
        )
        with Progress(*columns, console=stderr) as bar:
            task = bar.add_task(title, total=1.0, left="", note="")

            def draw(part: float, left: float, note: str = "") -> None:
                bar.update(task, completed=part, left=f"{duration(left)} left", note=note)

            yield draw
        return

    def write(part: float, left: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or part == 1:
            last = now
            say(f"{title}: {part:.0%}, {duration(now - start)}, {duration(left)} left {note}".rstrip())

    yield write


def duration(seconds: float) -> str:
    """Say a time in seconds, minutes or hours, whichever two it takes."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def shortened(note: str, width: int) -> str:
    """Return a note in at most `width` characters.

    Its longest word is a layer's name, of which the end says most: it loses its beginning, and what follows it goes
    first where little of it would be left.
    """
    if len(note) <= width:
        return note
    name = max(note.split(), key=len)
    before, _, after = note.partition(name)
    for kept in (after, ""):
        room = width - len(before) - len(kept)
        if room >= (min(len(name), SHORTEST_NAME) if kept else len("…x")):
            return before + _end(name, room) + kept
    return _end(note, width)


def _end(text: str, width: int) -> str:
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"[:width]


@dataclass(frozen=True)
class _Note:
    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield shortened(self.text, options.max_width)


class NoteColumn(ProgressColumn):
    """What is beside the bar, in the columns that the rest leaves."""

    def render(self, task: Task) -> _Note:
        """Return the task's note."""
        return _Note(task.fields["note"])


@dataclass
class _Kind:
    begun: float
    done: float
    seconds: float = 0.0

    @property
    def full(self) -> float:
        """Seconds for the whole of it, at the pace so far; 0 while that is unknown."""
        return self.seconds / (self.done - self.begun) if self.done > self.begun else 0.0


class InterleavedProgress:
    """Kinds of work that take turns, each of which goes on as fast as it has gone.

    One bar can then show them all: calibrating a block takes longer than packing it, or shorter, and neither says
    anything of the other.

    Args:
        show: what shows it.
        begun: kind of work → the part of it that an earlier run has done, from 0 to 1.
        clock: seconds.
    """

    def __init__(self, show: Show, begun: Mapping[str, float], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock."""
        self._show = show
        self._clock = clock
        self._last = clock()
        self._kinds = {kind: _Kind(part, part) for kind, part in begun.items()}

    def reach(self, kind: str, done: float, note: str = "") -> None:
        """Say that the part `done` of this kind of work is done; it is what has taken the time since the last call."""
        now = self._clock()
        progressed = self._kinds[kind]
        progressed.seconds += now - self._last
        progressed.done = done
        self._last = now
        full = sum(kind.full for kind in self._kinds.values())
        reached = sum(kind.done * kind.full for kind in self._kinds.values())
        self._show(reached / full if full else done, full - reached, note)

    def seconds(self, kind: str) -> float:
        """How long this kind of work has taken."""
        return self._kinds[kind].seconds
