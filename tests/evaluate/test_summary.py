from __future__ import annotations

import json

import pytest
from fakes import Drunkard, contender, plan, records

from vlapack.evaluate.statistics import Paired
from vlapack.evaluate.summary import eval_info, summarize, verdict

PLAN = plan([contender("policy", Drunkard()), contender("baseline", Drunkard())], tasks=2, trials=2)

CONTRACT = {
    "policy", "baseline", "suite", "task_ids", "trials", "seed", "episodes", "success_rate", "ci95",
    "baseline_success_rate", "baseline_ci95", "paired", "bytes", "ms_per_chunk", "per_task", "errors", "verdict",
    "reset", "versions",
}  # fmt: skip


def test_summary_follows_the_contract_and_is_json() -> None:
    ours = records(PLAN, "policy", [True, True, False, True], ms=40.0, held=10)
    theirs = records(PLAN, "baseline", [True, True, True, False], ms=30.0, held=70)
    summary = summarize(PLAN, ours, theirs, names=("pack", "float"))
    assert set(summary) >= CONTRACT
    json.dumps(summary, allow_nan=False)
    assert (summary["suite"], summary["task_ids"], summary["trials"]) == ("libero_spatial", [0, 1], 2)
    assert (summary["success_rate"], summary["baseline_success_rate"]) == (0.75, 0.75)
    assert summary["paired"]["only_policy"] == summary["paired"]["only_baseline"] == 1
    assert summary["paired"]["drop_upper95"] > 0.4
    assert summary["noise_floor"] is None
    assert summary["bytes"] == {"policy": 10, "baseline": 70}
    assert summary["ms_per_chunk"] == {"policy": 40.0, "baseline": 30.0}
    assert summary["steps"] == {"policy": 10.0, "baseline": 10.0}
    assert summary["per_task"]["libero_spatial_1"]["policy"]["successes"] == 1
    assert summary["verdict"] == "inconclusive"


def test_a_simulator_error_is_no_failure_of_the_policy() -> None:
    ours = records(PLAN, "policy", [True, None, True, True])
    theirs = records(PLAN, "baseline", [True, True, True, True])
    summary = summarize(PLAN, ours, theirs, names=("pack", "float"))
    assert (summary["success_rate"], summary["episodes"], summary["errors"]) == (1.0, 3, 1)
    assert summary["paired"]["both"] == 3
    assert summary["verdict"] == "errors"


def test_one_policy_alone_has_no_comparison() -> None:
    summary = summarize(PLAN, records(PLAN, "policy", [True] * 4), None, names=("pack", None))
    assert set(summary) >= CONTRACT
    assert summary["paired"] is summary["baseline_success_rate"] is None
    assert summary["verdict"] == "no_baseline"


@pytest.mark.parametrize(
    ("table", "errors", "expected"),
    [
        ((0, 0, 0, 60), 0, "baseline_failed"),
        ((0, 9, 1, 10), 0, "baseline_failed"),  # 1 of 20: the policy looks better, and nothing is known
        ((60, 0, 0, 0), 3, "errors"),
        ((50, 0, 12, 0), 0, "drop"),
        ((50, 12, 0, 0), 0, "no_drop_measured"),
        ((55, 1, 1, 3), 0, "no_drop_measured"),
        ((12, 0, 0, 0), 0, "inconclusive"),  # twelve episodes cannot exclude a drop of ten points
        ((50, 2, 7, 3), 0, "inconclusive"),
    ],
)
def test_verdicts(table: tuple[int, int, int, int], errors: int, expected: str) -> None:
    paired = Paired(*table)
    baseline_rate = (paired.both + paired.only_baseline) / paired.episodes
    assert verdict(paired, baseline_rate, errors) == expected


def test_starts_that_were_played_often_do_not_count_as_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four starts lost with all ten noises: McNemar sees twenty losses, but they are two."""
    often = plan([contender("policy", Drunkard()), contender("baseline", Drunkard())], 2, 2, noise_seeds=10)
    theirs = records(often, "baseline", [True] * 40)
    ours = records(often, "policy", [True, True, False, False] * 10)
    paired = summarize(often, ours, theirs, names=("pack", "float"))["paired"]
    assert paired["p_value"] < 1e-5
    assert paired["drop_upper95"] > 0.85
    few = records(often, "policy", [case.start != ("libero_spatial", 1, 1) for case in often.cases()])
    summary = summarize(often, few, theirs, names=("pack", "float"))
    assert (summary["paired"]["p_value"] < 0.05, summary["verdict"]) == (True, "inconclusive")


def test_a_run_that_could_stop_early_is_judged_by_the_interval_that_allows_it() -> None:
    many = plan([contender("policy", Drunkard()), contender("baseline", Drunkard())], tasks=2, trials=30)
    ours = records(many, "policy", [number % 6 != 0 for number in range(60)])
    theirs = records(many, "baseline", [True] * 60)
    assert summarize(many, ours, theirs, names=("pack", "float"))["verdict"] == "drop"
    for interval, expected in (([-0.3, -0.05], "drop"), ([-0.35, 0.02], "inconclusive")):
        sequential = {"of": "difference", "interval95": interval}
        summary = summarize(many, ours, theirs, names=("pack", "float"), sequential=sequential)
        assert (summary["verdict"], summary["sequential"]) == (expected, sequential)


def test_eval_info_has_lerobots_form() -> None:
    info = eval_info(records(PLAN, "policy", [True, None, False, True]))
    assert [(row["task_group"], row["task_id"]) for row in info["per_task"]] == [
        ("libero_spatial", 0),
        ("libero_spatial", 1),
    ]
    assert info["per_task"][1]["metrics"]["sum_rewards"] == [0.0, 1.0]
    assert info["overall"]["pc_success"] == info["per_group"]["libero_spatial"]["pc_success"]
    assert info["overall"]["n_episodes"] == 3
    assert info["overall"]["eval_ep_s"] == pytest.approx(2.0)
    assert len(info["overall"]["video_paths"]) == 3
