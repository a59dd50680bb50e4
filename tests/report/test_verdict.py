"""The answer at the top of the page: never a "yes" that the episodes have not earned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_runs import write_run

from vlapack.evaluate.statistics import Paired
from vlapack.evaluate.summary import verdict
from vlapack.report.runs import Run
from vlapack.report.verdict import Answer, _more, answer


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


@pytest.mark.parametrize(
    ("wins", "line"),
    [
        ([True] * 6, "About 71 more pairs (77 in all, from different starts) tell a drop of 10 points from none"),
        ([True] * 75 + [False] * 5, "About 114 more pairs (194 in all, from different starts) tell a drop of 5 points"),
    ],
)
def test_an_undecided_run_says_how_many_more_pairs_it_takes(tmp_path: Path, wins: list[bool], line: str) -> None:
    found = answered(write_run(tmp_path / "run", float_wins=[True] * len(wins), packed_wins=wins))
    assert found.short == "Not yet"
    assert any(text.startswith(line) for text in found.details)


def test_pairs_that_no_number_decides_are_not_asked_for() -> None:
    needed = [{"drop": drop, "episodes": 100} for drop in (0.02, 0.05, 0.1)]
    assert "more episodes will hardly decide" in _more({"episodes_needed": needed, "discordance": 0.1}, 100)


def test_a_drop_of_exactly_the_margin_is_never_decided_as_none() -> None:
    paired = Paired(80, 0, 10, 10)
    assert verdict(paired, 0.9, errors=0) == "drop"


def test_several_noises_on_one_start_are_counted_by_starts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", float_wins=[True] * 12, packed_wins=[True, False] * 6, noise_seeds=3)
    bound = Run.read(folder).comparisons[0].summary["paired"]["drop_upper95"]
    wanted = f"Counted by starts, the drop is at most {100 * bound:.1f} points"
    assert any(wanted in line for line in answered(folder).details)


def test_a_noise_floor_that_does_not_fit_a_moving_target_is_said_to_be_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert not any("noise floor" in line for line in answered(folder).details)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"drift": 0.1}))
    assert any(
        line.startswith("The noise floor is not known where the target moves;") for line in answered(folder).details
    )
