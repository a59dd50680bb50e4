"""The noise floor: counted as pairs, and one that comes with a policy counts for its own weights only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import Drunkard, contender, plan, records

from vlapack.checkpoints import SHIPPED
from vlapack.errors import InputError
from vlapack.evaluate.clock import PlanClock
from vlapack.evaluate.contender import contender as open_contender
from vlapack.evaluate.floor import FILE, committed_floor, noise_floor, parents
from vlapack.evaluate.summary import summarize
from vlapack.evaluate.table import floor_sentence

FIRST_POLICY = Path(__file__).parents[1] / "data" / "tiny-libero-1"
PLAN = plan([contender("baseline", Drunkard())], tasks=1, trials=5)


def floor() -> dict[str, object]:
    first = records(PLAN, "baseline", [True, True, True, False, True])
    again = records(PLAN, "noise-floor", [True, False, False, True, None])
    found = noise_floor(first, again, kind="another noise seed")
    assert found is not None
    return found


def test_the_floor_counts_pairs_with_a_result() -> None:
    found = floor()
    assert (found["episodes"], found["discordant"]) == (4, 3)
    assert (found["only_baseline"], found["only_floor"]) == (2, 1)
    assert (found["drop"], found["success_rate"]) == (0.25, 0.5)
    low, high = found["drop_ci95"]  # type: ignore[misc]
    assert low < 0.25 < high
    assert 0.25 < found["drop_upper95"] < 1


def test_no_pair_is_no_floor() -> None:
    failed = records(PLAN, "noise-floor", [None] * 5)
    assert noise_floor(records(PLAN, "baseline", [True] * 5), failed, kind="x") is None


def test_a_floor_of_other_weights_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE).write_text(json.dumps({"weights": "d", **floor()}))
    assert committed_floor(str(tmp_path), "d") == floor()
    assert committed_floor(str(tmp_path), "e") is None
    assert "measured with different weights" in capsys.readouterr().err
    assert committed_floor(str(tmp_path / "none"), "d") is None


def test_a_file_that_is_no_floor_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[1]")
    with pytest.raises(InputError, match=r"noise_floor.json is not a noise floor"):
        committed_floor(str(tmp_path), "d")


@pytest.mark.parametrize("policy", ["tiny-libero", str(FIRST_POLICY)])
def test_a_floor_beside_a_policy_of_ours_belongs_to_its_weights(policy: str) -> None:
    baseline, _ = open_contender("baseline", policy)
    there = (SHIPPED.get(policy, Path(policy)) / FILE).is_file()
    assert (committed_floor(baseline.name, baseline.identity["weights"]) is not None) == there


def test_people_are_told_which_floor_and_where_it_is_from() -> None:
    summary = summarize(PLAN, records(PLAN, "policy", [True] * 5), None, names=("pack", None), floor=floor())
    said = floor_sentence(summary)
    assert said is not None
    assert said.startswith(
        "noise floor (another noise seed; this run): the float policy disagrees with itself in 3 of 4"
    )
    alone = summarize(PLAN, records(PLAN, "policy", [True] * 5), None, names=("pack", None))
    assert floor_sentence(alone) is None
    ours, theirs = records(PLAN, "policy", [True] * 5), records(PLAN, "baseline", [True] * 5)
    compared = summarize(PLAN, ours, theirs, names=("pack", "float"))
    assert floor_sentence(compared) == "noise floor: not known; `noise_floor` plays it"


@pytest.mark.parametrize(
    ("moving", "where"),
    [
        ({"clock": PlanClock("wait", 2)}, "time goes on while a policy thinks"),
        ({"drift": 0.1}, "the target moves"),
        ({"clock": PlanClock("wait", 2), "drift": 0.1}, "time goes on while a policy thinks and the target moves"),
    ],
)
def test_a_floor_that_is_not_shown_because_it_was_measured_at_rest_is_said(moving: Any, where: str) -> None:
    there = plan([contender("baseline", Drunkard())], tasks=1, trials=5, **moving)
    ours, theirs = records(there, "policy", [True] * 5), records(there, "baseline", [True] * 5)
    assert floor_sentence(summarize(there, ours, theirs, names=("pack", "float"))) == (
        f"noise floor: not known where {where}; the floors that come with policies were measured with time and target "
        "at rest; `noise_floor` plays it"
    )
    own = summarize(there, ours, theirs, names=("pack", "float"), floor=floor())
    assert str(floor_sentence(own)).startswith("noise floor (another noise seed; this run)")


@pytest.mark.parametrize(
    ("baseline", "dtype", "noise", "said"),
    [
        ("tiny-libero", "float32", True, "two kinds of floor"),
        ("tiny-libero", "bfloat16", False, "`dtype` is bfloat16"),
        ("ws://host:1", "float32", False, "as its server was started"),
    ],
)
def test_a_floor_that_says_nothing_is_refused(baseline: str, dtype: str, noise: bool, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parents(baseline, {"dtype": dtype}, noise_floor=noise, bf16_floor=True)


def test_who_plays_the_floor_is_on_record() -> None:
    first, again = parents("tiny-libero", {"dtype": "float32"}, noise_floor=True, bf16_floor=False)
    assert (first.role, again.role, again.identity) == ("baseline", "noise-floor", first.identity)
    first, again = parents("tiny-libero", {"dtype": "float32"}, noise_floor=False, bf16_floor=True)
    assert (again.role, again.identity) == ("bf16-floor", {**first.identity, "dtype": "bfloat16"})
