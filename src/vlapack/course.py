"""How far several kinds of work have come that take turns, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vlapack.console import Show


@dataclass
class _Leg:
    begun: float
    done: float
    seconds: float = 0.0

    @property
    def full(self) -> float:
        """Seconds for the whole of it, at the pace so far; 0 while that is unknown."""
        return self.seconds / (self.done - self.begun) if self.done > self.begun else 0.0


class Course:
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
        self._legs = {kind: _Leg(part, part) for kind, part in begun.items()}

    def reach(self, kind: str, done: float, note: str = "") -> None:
        """Say that the part `done` of this kind of work is done; it is what has taken the time since the last call."""
        now = self._clock()
        leg = self._legs[kind]
        leg.seconds += now - self._last
        leg.done = done
        self._last = now
        full = sum(leg.full for leg in self._legs.values())
        reached = sum(leg.done * leg.full for leg in self._legs.values())
        self._show(reached / full if full else done, full - reached, note)

    def seconds(self, kind: str) -> float:
        """How long this kind of work has taken."""
        return self._legs[kind].seconds
