"""The answer at the top of the page: never a "yes" that the episodes have not earned."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import write_run

from vlapack.evaluate.statistics import Paired
from vlapack.evaluate.summary import verdict
from vlapack.report.runs import Run
from vlapack.report.verdict import Answer, answer, episodes_to_decide


def answered(folder: Path) -> Answer:
    [comparison] = Run.read(folder).comparisons
    return answer(comparison)


@pytest.mark.parametrize(
    ("float_wins", "packed_wins", "short", "tone"),
    [
        ([True] * 80, [True] * 80, "Yes", "good"),
        ([True] * 80, [True] * 60 + [False] * 20, "No", "bad"),
        ([True] * 6, [True] * 6, "Not yet", "open"),
        ([False] * 6, [True] * 6, "Cannot say", "open"),
        ([True] * 6, [None, *[True] * 5], "Cannot say yet", "open"),
        (None, [True] * 6, "Cannot say", "open"),
    ],
)
def test_every_verdict_has_its_answer(
    tmp_path: Path, float_wins: list[bool] | None, packed_wins: list[bool], short: str, tone: str
) -> None:
    found = answered(write_run(tmp_path / "run", float_wins=float_wins, packed_wins=packed_wins))
    assert (found.short, found.tone) == (short, tone)


def test_a_run_that_is_not_finished_never_says_yes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", float_wins=[True] * 100, packed_wins=[True] * 100, finished=80)
    found = answered(run)
    assert (found.short, found.tone) == ("Not yet", "open")
    assert "stopped after 180 of 200" in found.details[0]


def test_a_run_without_a_pair_yet_says_so(tmp_path: Path) -> None:
    found = answered(write_run(tmp_path / "run", finished=0))
    assert (found.short, found.reason) == ("Not yet", "No episode has been played by both policies.")


def test_an_undecided_run_says_how_many_more_episodes_would_decide(tmp_path: Path) -> None:
    found = answered(write_run(tmp_path / "run", float_wins=[True] * 6, packed_wins=[True] * 6))
    assert any("more pairs would exclude a loss of 10 points" in line for line in found.details)


@pytest.mark.parametrize("counts", [(6, 0, 0, 0), (20, 2, 3, 5), (30, 1, 3, 0), (8, 1, 2, 1)])
def test_the_episodes_needed_are_the_first_that_decide(counts: tuple[int, int, int, int]) -> None:
    paired = Paired(*counts)
    rate = (paired.both + paired.only_baseline) / paired.episodes
    needed = episodes_to_decide(paired, rate)
    assert needed is not None

    def decides(times: float) -> bool:
        scaled = Paired(*(round(count * times) for count in counts))
        return verdict(scaled, rate, errors=0) != "inconclusive"

    # Whole multiples have no rounding: the answer lies between the last that does not decide and the first that does.
    multiple = next(times for times in range(1, 10_000) if decides(times))
    assert paired.episodes * (multiple - 1) <= needed <= paired.episodes * multiple + 4


def test_a_drop_of_exactly_the_margin_is_never_decided_as_none() -> None:
    paired = Paired(80, 0, 10, 10)
    assert verdict(paired, 0.9, errors=0) == "drop"


def test_several_noises_on_one_start_are_counted_by_starts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", float_wins=[True] * 12, packed_wins=[True, False] * 6, noise_seeds=3)
    bound = Run.read(folder).comparisons[0].summary["paired"]["drop_upper95"]
    wanted = f"Counted by starts, the drop is at most {100 * bound:.1f} points"
    assert any(wanted in line for line in answered(folder).details)
