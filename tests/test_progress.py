"""Two kinds of work that take turns: each kind's own pace, and one forecast of both."""

from __future__ import annotations

import pytest

from vlapack.progress import InterleavedProgress


class Watched:
    """A course with a clock that is set by hand; keeps what it shows."""

    def __init__(self, **begun: float) -> None:
        self.now = 0.0
        self.shown: tuple[float, float, str] = (0.0, 0.0, "")
        self.turns = InterleavedProgress(self._show, begun, clock=lambda: self.now)

    def _show(self, part: float, left: float, note: str = "") -> None:
        self.shown = (part, left, note)

    def reach(self, seconds: float, kind: str, done: float) -> tuple[float, float]:
        self.now += seconds
        self.turns.reach(kind, done, "note")
        return self.shown[:2]


def test_every_kind_goes_on_at_its_own_pace() -> None:
    watched = Watched(slow=0.0, quick=0.0)
    assert watched.reach(30, "slow", 0.25) == (0.25, pytest.approx(90))
    assert watched.reach(2, "quick", 0.5) == (pytest.approx(32 / 124), pytest.approx(92))
    assert watched.reach(30, "slow", 0.5) == (pytest.approx(62 / 124), pytest.approx(62))
    watched.reach(60, "slow", 1)
    assert watched.reach(2, "quick", 1) == (1, 0)
    assert watched.turns.seconds("slow") == 120
    assert watched.shown[2] == "note"


def test_what_an_earlier_run_did_counts_as_done_and_not_as_pace() -> None:
    watched = Watched(pack=0.8)
    part, left = watched.reach(10, "pack", 0.9)
    assert (part, left) == (pytest.approx(0.9), pytest.approx(10))


def test_work_that_never_began_forecasts_nothing() -> None:
    watched = Watched(first=0.0, second=0.0)
    assert watched.reach(5, "first", 0.0) == (0.0, 0.0)
