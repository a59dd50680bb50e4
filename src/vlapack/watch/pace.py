"""How fast episodes end, from the last ones only: what a run did an hour ago says little about its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

KEPT = 30
"""The newest episodes that count."""

LEAST = 3
"""Of fewer, nothing is said."""


class Pace:
    """Episodes per second of every role, and of all together.

    Time counts up to now and not to the last episode, so that the pace of a run that stands still falls.
    """

    def __init__(self, roles: Iterable[str]) -> None:
        self._ends: dict[str | None, deque[float]] = {role: deque(maxlen=KEPT) for role in (None, *roles)}

    def note(self, role: str, at: float) -> None:
        """Count an episode that ended at this time."""
        for who in (role, None):
            self._ends[who].append(at)

    def forget(self) -> None:
        """Begin again: nobody plays any more, and the pause belongs to no pace."""
        for ends in self._ends.values():
            ends.clear()

    def per_second(self, now: float, role: str | None = None) -> float | None:
        """Return episodes per second of a role, or of all together; None: too few have ended to say."""
        ends = self._ends[role]
        if len(ends) < LEAST or now <= ends[0]:
            return None
        return (len(ends) - 1) / (now - ends[0])

    def pause(self) -> float | None:
        """Return the usual seconds from one episode's end to the next one's, of any role; None: too few have ended."""
        ends = self._ends[None]
        return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) >= LEAST else None
