from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import Drunkard, contender, plan

from vlapack.errors import InputError
from vlapack.evaluate.plan import NOISE_FLOOR, Case, choose_replan

PLAN = plan([contender("policy", Drunkard())])


def test_noise_depends_on_the_case_and_the_seed_only() -> None:
    case = Case("libero_goal", 3, 5)
    others = [Case("libero_goal", 3, 6), Case("libero_goal", 4, 5), Case("libero_object", 3, 5)]
    seeds = {PLAN.noise_seed(case), replace(PLAN, seed=8).noise_seed(case), *map(PLAN.noise_seed, others)}
    assert len(seeds) == 5
    assert PLAN.noise_seed(case) == replace(PLAN, replan=10, policies={"other": {"weights": "x"}}).noise_seed(case)


def test_noise_seed_is_the_same_for_ever() -> None:
    assert PLAN.noise_seed(Case("libero_spatial", 0, 0)) == 743538717854128778  # as sha256sum says


def test_noise_seeds_repeat_the_starts_with_other_noise_and_leave_the_first_as_it_was() -> None:
    many = replace(PLAN, noise_seeds=3)
    cases, starts = many.cases(), len(PLAN.cases())
    assert cases[:starts] == PLAN.cases()  # whoever stops after them has played the plan of one noise seed
    assert [case.start for case in cases] == 3 * [case.start for case in PLAN.cases()]
    assert len({many.noise_seed(case) for case in cases}) == 3 * starts
    assert [many.noise_seed(case) for case in cases[:starts]] == [PLAN.noise_seed(case) for case in PLAN.cases()]
    assert str(cases[-1]).endswith("init state 2 noise seed 2")


def test_a_plan_of_one_noise_seed_is_written_as_ever() -> None:
    assert "noise_seeds" not in PLAN.to_dict()
    assert replace(PLAN, noise_seeds=2).to_dict()["noise_seeds"] == 2


def test_only_the_noise_floor_has_noise_of_its_own() -> None:
    cases = replace(PLAN, noise_seeds=3).cases()
    shared = {PLAN.noise_seed(case) for case in cases}
    assert shared == {PLAN.noise_seed(case, "baseline") for case in cases}
    assert not shared & {PLAN.noise_seed(case, NOISE_FLOOR) for case in cases}


def test_noise_seed_fits_torchs_generator() -> None:
    assert all(0 <= PLAN.noise_seed(Case("libero_10", 9, state)) < 2**63 for state in range(200))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"noise_seeds": 0}, "played at least once"),
        ({"tasks": ()}, "no task"),
        ({"init_states": (1, 2, 1)}, "twice"),
        ({"replan": 0}, "replan is 0"),
    ],
)
def test_a_plan_that_means_nothing_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(PLAN, **change)  # type: ignore[arg-type]


def test_a_policy_is_replanned_as_its_parent_was_unless_told_otherwise() -> None:
    assert choose_replan(None, {}) == 5
    assert choose_replan(None, {"n_action_steps": 10}) == 10
    assert choose_replan(3, {"n_action_steps": 10}) == 3
    for nonsense in (0, -1, "10", 2.0, True, [5]):
        with pytest.raises(InputError, match=r"n_action_steps .*, not a number of actions: give `replan=5`"):
            choose_replan(None, {"n_action_steps": nonsense})
