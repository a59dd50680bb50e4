"""The pace that times left rest on: recent, and nothing where there is none."""

from __future__ import annotations

import pytest

from vlapack.watch.pace import KEPT, Pace


def test_nothing_is_promised_before_a_few_episodes_have_ended() -> None:
    pace = Pace(["a"])
    pace.note("a", 0.0)
    pace.note("a", 10.0)
    assert pace.per_second(20.0, "a") is None
    pace.note("a", 20.0)
    assert pace.per_second(20.0, "a") == pytest.approx(0.1)


def test_only_the_last_episodes_count() -> None:
    pace = Pace(["a"])
    for number in range(100):
        pace.note("a", number * 100.0)
    for number in range(KEPT):
        pace.note("a", 1e6 + number)
    assert pace.per_second(1e6 + KEPT - 1, "a") == pytest.approx(1.0)


def test_a_run_that_stands_still_is_promised_less_and_less() -> None:
    pace = Pace(["a"])
    for number in range(10):
        pace.note("a", float(number))
    assert pace.per_second(9.0, "a") == pytest.approx(1.0)
    assert pace.per_second(90.0, "a") == pytest.approx(0.1)
    assert pace.pause() == pytest.approx(1.0), "what was usual stays"


def test_policies_have_their_own_pace_and_one_together() -> None:
    pace = Pace(["a", "b"])
    for number in range(6):
        pace.note("ab"[number % 2], float(number))
    assert pace.per_second(5.0) == pytest.approx(1.0)
    assert pace.per_second(4.0, "a") == pytest.approx(0.5)
