"""Stopping early: the interval holds although one looks at it all the time, and the run stops when it says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulators
from fakes import Drunkard, contender, plan

from vlapack.errors import InputError
from vlapack.evaluate.conclusions import conclude_all
from vlapack.evaluate.run import conclude, evaluate
from vlapack.evaluate.sequential import ConfidenceSequence, Stopping
from vlapack.evaluate.sequential_sweep import StoppingEach
from vlapack.evaluate.shard import Shard
from vlapack.evaluate.statistics import wilson

RUNS, CASES = 150, 300


def misses(values: list[float], chances: list[float], target: float) -> int:
    """In how many of the runs the interval was ever wrong."""
    draw, found = np.random.default_rng(0), 0
    for _ in range(RUNS):
        population = draw.choice(values, size=CASES, p=chances)
        sequence = ConfidenceSequence(CASES, target, min(values), points=401)
        for value in population:
            sequence.add([float(value)])
            low, high = sequence.interval()
            if not low - 1e-9 <= population.mean() <= high + 1e-9:
                found += 1
                break
    return found


@pytest.mark.parametrize(
    ("values", "chances", "target"),
    [([0, 1], [0.5, 0.5], 0.1), ([0, 1], [0.05, 0.95], 0.03), ([-1, 0, 1], [0.12, 0.8, 0.08], 0.05)],
)
def test_the_interval_is_ever_wrong_in_five_percent_of_runs_at_most(
    values: list[float], chances: list[float], target: float
) -> None:
    assert misses(values, chances, target) <= 14  # 7.5 expected at most; more than 14 in 1 % of such tests


def test_an_interval_for_a_fixed_number_is_wrong_far_more_often_when_it_is_looked_at() -> None:
    draw, wrong = np.random.default_rng(0), 0
    for _ in range(RUNS):
        won = np.cumsum(draw.random(CASES) < 0.5)
        bounds = [wilson(int(count), number) for number, count in enumerate(won, 1)]
        wrong += any(not low <= 0.5 <= high for low, high in bounds)
    assert wrong > 0.2 * RUNS


def test_it_takes_about_one_and_a_half_times_the_episodes_of_a_fixed_number() -> None:
    draw = np.random.default_rng(1)
    for rate, fixed in ((0.5, 1067), (0.9, 384)):
        sequence = ConfidenceSequence(100_000, 0.03)
        low, high = 0.0, 1.0
        while high - low > 0.06:
            sequence.add((draw.random(20) < rate).astype(float))
            low, high = sequence.interval()
        assert fixed < sequence.count < 2.2 * fixed


def test_all_of_a_population_is_its_mean() -> None:
    sequence = ConfidenceSequence(10, 0.1)
    sequence.add([1.0] * 7 + [0.0] * 3)
    assert sequence.interval() == pytest.approx((0.7, 0.7))


def stopping(half_width: float) -> tuple[Stopping, list[object], object]:
    entries = [contender("baseline", Drunkard(0.5)), contender("policy", Drunkard(0.5))]
    many = plan(entries, tasks=2, trials=20, noise_seeds=4)
    return Stopping(many, half_width), entries, many


def test_a_run_stops_when_it_knows_enough_and_goes_on_when_more_is_asked(tmp_path: Path) -> None:
    played = []
    for half_width in (0.2, 0.2, 0.05):
        until, entries, many = stopping(half_width)
        options = {"workers": 2, "factory": simulators.walk, "videos": False, "until": until}
        records = evaluate(many, entries, tmp_path, **options)  # type: ignore[arg-type]
        summary = conclude(many, records, tmp_path, names=("pack", "float"), until=until)  # type: ignore[arg-type]
        assert summary["sequential"]["reached"]
        assert summary["sequential"]["cases"] == len(records["policy"]) == len(records["baseline"])
        low, high = summary["sequential"]["interval95"]
        assert low <= 0 <= high <= low + 2 * half_width
        played.append(len((tmp_path / "episodes.jsonl").read_text().splitlines()))
    assert 0 < played[0] == played[1] < played[2] <= 320
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    first = {(line["task_id"], line.get("noise", 0)) for line in lines[:40]}
    assert len(first) == 8, "the first round must be drawn from all tasks and noises"


@pytest.mark.parametrize("width", [0.0, -0.1, 1.0, 3.0])
def test_a_width_that_no_interval_has_is_refused(width: float) -> None:
    with pytest.raises(InputError, match=r"such as 0\.03 for 3 points"):
        stopping(width)


def test_a_shard_does_not_stop_early(tmp_path: Path) -> None:
    until, entries, many = stopping(0.2)
    with pytest.raises(InputError, match="give one"):
        evaluate(many, entries, tmp_path, shard=Shard(1, 2), until=until)  # type: ignore[arg-type]


def test_each_comparison_of_a_sweep_stops_by_itself(tmp_path: Path) -> None:
    """`same` acts like its baseline and is decided at once; `other` often does not, and its baseline goes on for it."""
    drifts = {"a": 0.1, "a+noise-floor": 0.1, "same": 0.1, "other": -0.05}
    against = {"a": "", "a+noise-floor": "a", "same": "a", "other": "a"}
    entries = [
        replace(contender(role, Drunkard(drift)), identity={"weights": role, "against": against[role]})
        for role, drift in drifts.items()
    ]
    many = plan(entries, tasks=2, trials=20, noise_seeds=4)
    options = {"workers": 2, "factory": simulators.walk, "videos": False}
    for attempt in ("first", "again"):
        until = StoppingEach(many, 0.15)
        records = evaluate(many, entries, tmp_path, until=until, **options)  # type: ignore[arg-type]
        counts = {role: len(found) for role, found in records.items()}
        assert counts["same"] < counts["other"] == counts["a"] == counts["a+noise-floor"], attempt
    summaries = conclude_all(many, records, tmp_path, until=until)["policies"]
    assert "sequential" not in summaries["a"]
    for role in ("same", "other"):
        found = summaries[role]
        assert found["sequential"]["reached"]
        assert found["sequential"]["cases"] == found["episodes"] == counts[role]
        assert sum(found["paired"][who] for who in ("both", "only_policy", "only_baseline", "neither")) == counts[role]
