"""A card that is none: tensors on the CPU, a clock that jumps, `Recorder`s as graphs. No figure of it means anything.

It exists so that everything else of the benchmark runs without a card, in seconds, as it would with one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpu.card import ASKED, UNKNOWN
from vlapack.machine.gpu import CPU
from vlapack.ops import engine
from vlapack.pi0.capture import Capture
from vlapack.pi0.recorder import Recorder

JUMP = 5.0
"""Seconds by which the clock moves whenever it is read: warm-ups and cells end by their limits after a few runs."""


class DryCard:
    """See the module."""

    device = CPU
    dry = True

    def __init__(self) -> None:
        """Start the clock."""
        self._time = 0.0
        self._marks = 0

    def describe(self) -> dict[str, Any]:
        return {
            "name": "dry",
            "architecture": "none",
            "driver": UNKNOWN,
            "engine": engine.active(CPU),
            "memory_bytes": 1 << 30,
            "processors": 1,
            "cache_bytes": 1 << 12,
        }

    def now(self) -> float:
        self._time += JUMP
        return self._time

    def mark(self) -> int:
        self._marks += 1
        return self._marks

    def elapsed(self, first: int, last: int) -> float:
        return float(last - first)

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def capturing(self) -> Capture:
        return Recorder

    def nodes(self, run: Callable[[], Any]) -> int | None:
        return Recorder(run).operators

    def forget_peak(self) -> None:
        """There is no allocator to ask."""

    def memory(self) -> dict[str, int]:
        return {"allocated": 0, "peak": 0, "context": 0}

    def free(self) -> int:
        return 1 << 30

    def state(self) -> dict[str, float | str]:
        return dict.fromkeys(ASKED, UNKNOWN)
