"""The model of more threads: what it takes a measurement apart into, and what it makes of it again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from threads import Cost, Part

FREE = Cost(0.0, 0.0)


def test_work_that_is_shared_is_divided_and_what_is_alone_stays() -> None:
    part = Part.of(100.0, 60.0, 10, 20, FREE)
    assert (part.shared, part.alone) == (80.0, 20.0)
    assert [part.ms(threads, FREE) for threads in (1, 2, 4, 8)] == [100, 60, 40, 30]


def test_waiting_is_no_work_and_grows_with_the_threads() -> None:
    cost = Cost(start=100.0, meeting=10.0)  # µs
    part = Part.of(100.0, 55.0, 20, 300, cost)
    assert cost.waiting(20, 300, 2) == pytest.approx(5)
    assert (part.shared, part.alone) == (100.0, 0.0)
    assert part.ms(1, cost) == 100
    assert part.ms(2, cost) == pytest.approx(55)
    assert part.ms(4, cost) == pytest.approx(25 + 15)


def test_a_measurement_that_is_better_than_halved_leaves_nothing_negative() -> None:
    part = Part.of(100.0, 45.0, 0, 0, FREE)
    assert (part.shared, part.alone) == (100.0, 0.0)
