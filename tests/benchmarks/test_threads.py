"""The model of more threads: what it takes a measurement apart into, and what it makes of it again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import threads
from threads import Part, Waits, table

from vlapack.ops import engine

FREE = Waits(starts=10, meetings=20, start_us=0, meeting_us=0)
DEAR = Waits(starts=20, meetings=300, start_us=100, meeting_us=10)  # 5 ms on two threads


def test_work_that_is_shared_is_divided_and_what_is_alone_stays() -> None:
    part = Part.of(100.0, 60.0, FREE)
    assert (part.shared, part.alone) == (80.0, 20.0)
    assert [part.ms(count) for count in (1, 2, 4, 8)] == [100, 60, 40, 30]


@pytest.mark.parametrize(("two", "shared"), [(55.0, 100.0), (65.0, 80.0), (105.0, 0.0)])
def test_waiting_is_no_work_and_grows_with_the_threads(two: float, shared: float) -> None:
    part = Part.of(100.0, two, DEAR)
    assert (part.shared, part.alone) == (shared, 100.0 - shared)
    assert part.ms(1) == 100
    assert part.ms(2) == pytest.approx(two)  # what was measured comes back
    assert part.ms(4) == pytest.approx(shared / 4 + 100 - shared + 15)


def test_a_measurement_that_is_better_than_halved_leaves_nothing_negative() -> None:
    part = Part.of(100.0, 45.0, FREE)
    assert (part.shared, part.alone) == (100.0, 0.0)


def test_a_start_is_timed_after_its_pause_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves 0.1 ms whenever it is read; a start takes 0.2 ms."""
    now, since = 0.0, 0.0
    pauses = []

    def clock() -> float:
        nonlocal now
        now += 1e-4
        return now

    def meet(threads: int, meetings: int) -> None:
        nonlocal now, since
        pauses.append(now - since)
        now += 2e-4
        since = now

    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=clock))
    assert threads.start_us(SimpleNamespace(meet=meet), pause=0.002) == pytest.approx(300)
    assert min(pauses) >= 0.002


@pytest.mark.skipif(engine.kernels is None, reason="the compiled engine counts them")
def test_starts_and_meetings_are_counted() -> None:
    before = engine.kernels.waits()
    engine.kernels.meet(2, 7)
    assert [new - old for new, old in zip(engine.kernels.waits(), before, strict=True)] == [1, 7]


def test_the_table_has_a_row_for_each_part_and_their_sum() -> None:
    waits = {"starts": 20, "meetings": 300, "start_us": 100, "meeting_us": 10}
    rows = [{"part": part, "ms": [100.0, 65.0], **waits} for part in ("vision", "denoise")]
    facts = {"policy": "full", "dtype": "bfloat16", "machine": {"family": "25/1", "cpu": "a CPU"}}
    *_, vision, denoise, total = table({**facts, "rows": rows}).splitlines()
    assert vision.startswith("| vision | 20 | 100.0 | 300 | 10.00 | 20.0 | 100 | 65 | 55 |")
    assert denoise.split("|")[2:] == vision.split("|")[2:]
    assert total.startswith("| all | | | | | | 200 | 130 | 110 |")
