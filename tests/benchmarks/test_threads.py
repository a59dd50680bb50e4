"""The model of more threads: what it takes a measurement apart into, and what it makes of it again."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from threads import Part, Waits, start_us, table

FREE = Waits(starts=10, meetings=20, start_us=0, meeting_us=0)
DEAR = Waits(starts=20, meetings=300, start_us=100, meeting_us=10)  # 5 ms on two threads


def test_work_that_is_shared_is_divided_and_what_is_alone_stays() -> None:
    part = Part.of(100.0, 60.0, FREE)
    assert (part.shared, part.alone) == (80.0, 20.0)
    assert [part.ms(threads) for threads in (1, 2, 4, 8)] == [100, 60, 40, 30]


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


def test_a_start_is_timed_after_its_pause_and_without_it() -> None:
    """The pool wakes up in 0.2 ms here; the pause is ten times as long."""
    wakes = []

    class Pool:
        last = 0.0

        def meet(self, threads: int, meetings: int) -> None:
            wakes.append(time.perf_counter() - self.last)
            time.sleep(0.0002)
            self.last = time.perf_counter()

    assert 200 <= start_us(Pool(), pause=0.002) < 2000
    assert min(wakes) >= 0.002


def test_starts_and_meetings_are_counted() -> None:
    kernels = pytest.importorskip("vlapack._kernels")
    before = kernels.waits()
    kernels.meet(2, 7)
    assert [new - old for new, old in zip(kernels.waits(), before, strict=True)] == [1, 7]


def test_the_table_has_a_row_for_each_part_and_their_sum() -> None:
    waits = {"starts": 20, "meetings": 300, "start_us": 100, "meeting_us": 10}
    rows = [{"part": part, "ms": [100.0, 65.0], **waits} for part in ("vision", "denoise")]
    facts = {"policy": "full", "dtype": "bfloat16", "machine": {"family": "25/1", "cpu": "a CPU"}}
    *_, vision, denoise, total = table({**facts, "rows": rows}).splitlines()
    assert vision.startswith("| vision | 20 | 100.0 | 300 | 10.00 | 20.0 | 100 | 65 | 55 |")
    assert denoise.split("|")[2:] == vision.split("|")[2:]
    assert total.startswith("| all | | | | | | 200 | 130 | 110 |")
