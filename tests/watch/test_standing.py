"""Figures of a run that is not finished: the evaluation's own, and no promise without a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from growing import Clock, Growing

from vlapack.evaluate.plan import Plan
from vlapack.report.runs import Run
from vlapack.watch.followed import Followed
from vlapack.watch.standing import Standing, standing


def player(found: Standing, role: str = "policy"):
    return next(one for one in found.players if one.role == role)


@pytest.mark.parametrize("played", range(13))
def test_success_and_difference_are_those_of_the_report_at_any_moment(growing: Growing, played: int) -> None:
    growing.play(played)
    growing.episodes.touch()
    found = player(standing(Followed(growing.folder)))
    [comparison] = Run.read(growing.folder).comparisons
    wanted = comparison.summary
    assert (found.finished, found.rate, list(found.interval)) == (
        wanted["episodes"],
        wanted["success_rate"],
        wanted["ci95"],
    )
    assert found.paired == comparison.paired


def test_a_run_is_under_way_stopped_or_complete(growing: Growing) -> None:
    growing.play(5)
    with growing.playing():
        assert standing(Followed(growing.folder)).state == "under way"
    assert standing(Followed(growing.folder)).state == "stopped"
    growing.play(7)
    assert standing(Followed(growing.folder)).state == "complete"


def test_a_run_that_plays_its_errors_again_is_not_complete(tmp_path: Path) -> None:
    growing = Growing(tmp_path, packed_wins=(None, True, False, True, True, False))
    growing.play(12)
    with growing.playing():
        assert standing(Followed(growing.folder)).state == "under way"
    found = standing(Followed(growing.folder))
    assert (found.state, found.errors) == ("complete", 1)


def test_a_run_that_goes_on_after_stopping_early_is_not_complete(growing: Growing) -> None:
    growing.play(8)
    summary = {"episodes": 2, "versions": {}, "verdict": "no_drop_measured", "sequential": {
        "of": "difference", "half_width_wanted": 0.03, "interval95": [-0.02, 0.03], "cases": 2, "planned_cases": 6,
        "reached": True,
    }}  # fmt: skip
    (growing.folder / "summary.json").write_text(json.dumps(summary))
    assert standing(Followed(growing.folder)).state == "complete"
    growing.play(1)
    assert standing(Followed(growing.folder)).state == "stopped"


def test_the_time_left_is_unknown_until_there_is_a_pace(growing: Growing) -> None:
    clock = Clock()
    growing.play(1)
    with growing.playing():
        run = Followed(growing.folder, clock=clock)
        for _ in range(2):
            clock.now += 30
            growing.play()
            run.look()
        assert standing(run).left is None
        clock.now += 30
        growing.play()
        run.look()
        found = standing(run)
        assert found.left == pytest.approx(8 * 30)
        assert player(found, "baseline").left == pytest.approx(2 * 30)
        assert player(found).left is None, "it has not begun"


def test_a_run_that_stopped_growing_is_told_from_a_slow_one(growing: Growing) -> None:
    clock = Clock()
    growing.play(1)
    with growing.playing():
        run = Followed(growing.folder, clock=clock)
        for _ in range(5):
            clock.now += 40
            growing.play()
            run.look()
        clock.now += 150
        run.look()
        assert not standing(run).stalled, "five of its usual pauses"
        clock.now += 100
        run.look()
        found = standing(run)
        assert found.stalled
        assert found.quiet == pytest.approx(250)


def test_what_the_packing_lost_comes_before_newer_failures(growing: Growing) -> None:
    growing.play(12)
    failures = standing(Followed(growing.folder)).failures
    # made_runs: of the packed policy's failures at places 2 and 5, the baseline succeeds in both; it fails at 4.
    assert [(one.record.role, one.record.task_id, one.record.init_state, one.lost) for one in failures] == [
        ("policy", 1, 2, True),
        ("policy", 0, 2, True),
        ("baseline", 1, 1, False),
    ]
    assert {one.seed for one in failures} == {7}


def test_a_sweep_compares_every_pack_with_its_own_parent(tmp_path: Path) -> None:
    policies = {
        "a": {"name": "a", "weights": "1", "against": ""},
        "a+noise-floor": {"name": "a+noise-floor", "weights": "1", "against": "a"},
        "a+full": {"name": "a+full", "weights": "2", "against": "a"},
        "b": {"name": "b", "weights": "3", "against": ""},
        "b+full": {"name": "b+full", "weights": "4", "against": "b"},
    }
    plan = Plan(tasks=(("libero_spatial", 0),), init_states=(0, 1), policies=policies)
    growing = Growing(tmp_path)
    (growing.folder / "plan.json").write_text(json.dumps(plan.to_dict()))
    row = json.loads(growing.lines[0])
    wins = {"a": [1, 1], "a+noise-floor": [1, 0], "a+full": [0, 1], "b": [0, 0], "b+full": [1, 0]}
    for role, outcomes in wins.items():
        for state, won in enumerate(outcomes):
            growing.write(json.dumps(row | {"role": role, "init_state": state, "success": bool(won)}).encode() + b"\n")
    found = standing(Followed(growing.folder))
    assert {one.role: one.paired and one.paired.difference for one in found.players} == {
        "a": None,
        "a+noise-floor": -0.5,
        "a+full": -0.5,
        "b": None,
        "b+full": 0.5,
    }
    assert "a+noise-floor" not in {one.player for one in found.failures}
    run = Run.read(growing.folder)
    assert [(one.role, one.baseline) for one in run.comparisons] == [("a+full", "a"), ("b+full", "b")]
    assert run.comparisons[0].summary["noise_floor"]["discordant"] == 1
    assert run.comparisons[1].summary["noise_floor"] is None


def test_the_document_is_json_and_says_what_is_not_known(growing: Growing) -> None:
    growing.play(7)
    document = json.loads(json.dumps(standing(Followed(growing.folder)).to_dict(), allow_nan=False))
    assert (document["state"], document["episodes"], document["planned"]) == ("stopped", 7, 12)
    policy = document["policies"][1]
    assert (policy["role"], policy["pairs"], policy["drop"]) == ("policy", 1, 0.0)
    assert policy["seconds_left"] is None
    assert document["failures"][0]["baseline_succeeds"] is False
