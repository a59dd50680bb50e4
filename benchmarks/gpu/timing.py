"""Timing what a card does: warm up, then take samples, both for a bounded time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpu.card import Card
from vlapack.pi0.capture import Capture, Captured

INNER = 10
"""Runs in one captured graph of a product: one alone is as short as the launch of a graph."""


@dataclass(frozen=True)
class Limits:
    """How long is measured: so many runs or seconds, whichever are over first.

    Attributes:
        warm_up: runs that do not count. On a Thor twenty were not enough, and read 7 % slow.
        warm_seconds: of these.
        samples: runs that count.
        seconds: of all.
    """

    warm_up: int
    warm_seconds: float
    samples: int
    seconds: float


CHUNK = Limits(warm_up=300, warm_seconds=20.0, samples=200, seconds=30.0)
PRODUCT = Limits(warm_up=50, warm_seconds=2.0, samples=200, seconds=6.0)


def measured(card: Card, once: Callable[[], Mapping[str, float]], limits: Limits) -> dict[str, Any]:
    """Run something often.

    Args:
        card: whose clock is taken.
        once: runs it and returns milliseconds by what they are of.
        limits: how often, and how long.

    Returns:
        `warm_up` and `samples`, how many there were, and for each kind p50, p95 and the least, in milliseconds.
    """
    start = card.now()
    warm = 0
    while warm < limits.warm_up and (warm == 0 or card.now() - start < limits.warm_seconds):
        once()
        warm += 1
    found: list[Mapping[str, float]] = []
    while len(found) < limits.samples and (not found or card.now() - start < limits.seconds):
        found.append(once())
    kinds = {kind: percentiles([one[kind] for one in found]) for kind in found[0]}
    return {"warm_up": warm, "samples": len(found), **kinds}


def percentiles(values: list[float]) -> dict[str, float]:
    """Return the median, the 95th percentile (of a sample: the next value above) and the least."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {"p50": ordered[-(-last // 2)], "p95": ordered[-(-last * 95 // 100)], "min": ordered[0]}


def seconds_of(card: Card, run: Callable[[], Any]) -> float:
    """Return the card's seconds for a run that is launched now."""
    first = card.mark()
    run()
    last = card.mark()
    card.synchronize()
    return card.elapsed(first, last) / 1e3


class Watched:
    """A `Capture` whose runs mark when they are replayed, so that a chunk's own time on the card is known.

    Attributes:
        replays: how often each captured run was replayed since `clear`, in the order of their capture.
        runs: the functions that were captured.
    """

    def __init__(self, card: Card) -> None:
        """Watch what `card` captures."""
        self._card = card
        self._capture = card.capturing()
        self.runs: list[Callable[[], Any]] = []
        self.replays: list[int] = []
        self.clear()

    def __call__(self, run: Callable[[], Any]) -> Captured:
        """Capture a run."""
        self.runs.append(run)
        self.replays.append(0)
        return _WatchedRun(self, len(self.runs) - 1, self._capture(run))

    def clear(self) -> None:
        """Forget what was replayed."""
        self._first: Any = None
        self._last: Any = None
        self.replays = [0] * len(self.runs)

    def begin(self) -> None:
        """Mark the first replay."""
        if self._first is None:
            self._first = self._card.mark()

    def end(self, number: int) -> None:
        """Mark a replay's end."""
        self._last = self._card.mark()
        self.replays[number] += 1

    def milliseconds(self) -> float | None:
        """From the first replay's begin to the last one's end; None if nothing was replayed. The card is waited for."""
        self._card.synchronize()
        return None if self._first is None else self._card.elapsed(self._first, self._last)


class _WatchedRun:
    def __init__(self, watched: Watched, number: int, captured: Captured) -> None:
        self._watched, self._number, self._captured = watched, number, captured
        self.outputs = captured.outputs

    def replay(self) -> None:
        self._watched.begin()
        self._captured.replay()
        self._watched.end(self._number)


def in_graph(capture: Capture, *runs: Callable[[], Any]) -> Captured:
    """Capture `INNER` rounds of some runs, one after the other."""

    def rounds() -> list[Any]:
        outputs: list[Any] = []
        for _ in range(INNER):
            outputs = [run() for run in runs]  # the round before lets go of its memory, which this one takes
        return outputs

    return capture(rounds)
