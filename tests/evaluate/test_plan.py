from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import Drunkard, contender, plan

from vlapack.errors import InputError
from vlapack.evaluate.plan import Case

PLAN = plan([contender("policy", Drunkard())])


def test_noise_depends_on_the_case_and_the_seed_only() -> None:
    case = Case("libero_goal", 3, 5)
    others = [Case("libero_goal", 3, 6), Case("libero_goal", 4, 5), Case("libero_object", 3, 5)]
    seeds = {PLAN.noise_seed(case), replace(PLAN, seed=8).noise_seed(case), *map(PLAN.noise_seed, others)}
    assert len(seeds) == 5
    assert PLAN.noise_seed(case) == replace(PLAN, replan=10, policies={"other": {"weights": "x"}}).noise_seed(case)


def test_noise_seed_is_the_same_for_ever() -> None:
    assert PLAN.noise_seed(Case("libero_spatial", 0, 0)) == 743538717854128778  # as sha256sum says


def test_noise_seed_fits_torchs_generator() -> None:
    assert all(0 <= PLAN.noise_seed(Case("libero_10", 9, state)) < 2**63 for state in range(200))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"tasks": ()}, "no task"), ({"init_states": (1, 2, 1)}, "twice"), ({"replan": 0}, "replan is 0")],
)
def test_a_plan_that_means_nothing_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(PLAN, **change)  # type: ignore[arg-type]
