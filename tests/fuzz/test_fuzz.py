"""No input, however hostile, gives a traceback, a hang or a large bill: the corpus, and two minutes of new cases."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from fuzz.harness import Tally, explore, kept, watched
from fuzz.kinds import Kind, kinds
from fuzz.messages import Messages
from fuzz.refusal import Case

SLICE_S = 120
MOST_TURNS = 24
"""Of a kind: a faster machine looks at no others than those that have been looked at; `make fuzz` takes new ones."""
SEED = 20260
AT_ONCE = 50


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kind | Messages]]:
    found = {kind.name: kind for kind in kinds(tmp_path_factory.mktemp("fuzz"))}
    yield found
    for kind in found.values():
        kind.close()


def test_what_is_good_is_taken(every: dict[str, Kind | Messages]) -> None:
    for kind in every.values():
        outcome = watched(kind, {"kind": kind.name, "edits": [], "sealed": True})
        assert outcome.done, kind.name


@pytest.mark.parametrize("case", kept(), ids=lambda case: case["kind"])
def test_what_was_found_once_is_refused_or_right(case: Case, every: dict[str, Kind | Messages]) -> None:
    outcome = watched(every[case["kind"]], case)
    assert not outcome.problem, outcome.place


@pytest.mark.fuzz
def test_two_minutes_of_new_cases(every: dict[str, Kind | Messages], capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    for kind in every.values():
        end, start = time.monotonic() + SLICE_S / len(every), SEED
        while time.monotonic() < end and start < SEED + MOST_TURNS:
            explore(kind, AT_ONCE, start, tally)
            start += 1
    with capsys.disabled():
        print(f"\n{tally.report()}")
    assert not tally.found
