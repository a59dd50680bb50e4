"""How far several kinds of work have come that take turns, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from vlapack.console import say, stderr

SECONDS_BETWEEN_LINES = 10.0


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
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=stderr) as bar:
            task = bar.add_task(title, total=1.0, left="", note="")

            def draw(part: float, left: float, note: str = "") -> None:
                bar.update(task, completed=part, left=f"{left:.0f} s left", note=note)

            yield draw
        return

    def write(part: float, left: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or part == 1:
            last = now
            say(f"{title}: {part:.0%}, {now - start:.0f} s, {left:.0f} s left {note}".rstrip())

    yield write


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
