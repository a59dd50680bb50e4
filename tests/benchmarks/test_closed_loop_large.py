"""The large run: stopped at any time, it leaves complete pairs, and no machine's episodes are mixed with another's."""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import closed_loop_large as large
from common.episodes import BASELINE, Episode, Episodes, pairs, read

from vlapack.errors import InputError, WorkError
from vlapack.evaluate.plan import NOISE_FLOOR, Case, Plan
from vlapack.recipe.choice import Choice
from vlapack.recipe.recipe import Recipe

RUN = {"policy.weights": "w", "tasks": [["libero_spatial", 0], ["libero_spatial", 3]], "seed": 7}
ROLES = (BASELINE, NOISE_FLOOR, "full", "quantvla")
POLICIES = {BASELINE: "w", NOISE_FLOOR: "w", "full": "f", "quantvla": "q"}
HERE = {"arithmetic": {"cpu": "here"}, "packs": {"full": "1", "quantvla": "2"}, "date": "today"}
PLAN = Plan(tasks=(("libero_spatial", 0), ("libero_spatial", 3)), init_states=(0, 1), policies={}, noise_seeds=2)
SEEDS = {BASELINE: 2, NOISE_FLOOR: 2, "full": 2, "quantvla": 1}


def opened(folder: Path, **changes: Any) -> Episodes:
    return Episodes(folder, **{"run": RUN, "policies": POLICIES, "build": HERE} | changes)


def add(episodes: Episodes, role: str, case: Case, success: bool = True) -> None:
    episodes.add(role, case, success=success, steps=80)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "evaluate"))
    monkeypatch.setattr(large, "require_memory", lambda *_: None)
    return importlib.import_module("fakes")


def play(fakes: Any, episodes: Episodes, plan: Plan = PLAN, *, seconds: float = math.inf) -> None:
    simulators = importlib.import_module("simulators")
    entries = {role: fakes.contender(role, fakes.Drunkard()) for role in ROLES}
    end = time.monotonic() + seconds
    large.play_all(plan, entries, SEEDS, episodes, workers=2, end=end, factory=simulators.walk)


def test_every_policy_has_its_pairs_with_the_noise_that_all_share(tmp_path: Path, fakes: Any) -> None:
    with opened(tmp_path) as episodes:
        play(fakes, episodes)
        counts = {role: len(played) for role, played in episodes.played.items()}
        assert counts == {BASELINE: 8, NOISE_FLOOR: 8, "full": 8, "quantvla": 4}
        for role in ("full", "quantvla"):
            assert all(ours == theirs for ours, theirs in pairs(episodes.played[role], episodes.played[BASELINE]))
        floor = pairs(episodes.played[NOISE_FLOOR], episodes.played[BASELINE])
        assert any(ours.steps != theirs.steps for ours, theirs in floor)
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.jsonl")}
    assert max(map(len, before["full.jsonl"].splitlines())) < 30
    with opened(tmp_path) as episodes:
        play(fakes, episodes)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.jsonl")} == before


def test_a_run_that_is_stopped_leaves_complete_pairs_and_goes_on(tmp_path: Path, fakes: Any) -> None:
    sessions, short = 0, replace(PLAN, init_states=(1,))
    with opened(tmp_path / "pieces") as episodes:
        while any(episodes.missing(case, [r for r in ROLES if case.noise < SEEDS[r]]) for case in short.cases()):
            play(fakes, episodes, short, seconds=0)  # one episode a session
            counts = {role: len(played) for role, played in episodes.played.items() if SEEDS[role] == 2}
            assert max(counts.values()) - min(counts.values()) <= 2, "one start per worker may be incomplete"
            sessions += 1
    assert sessions == 14
    with opened(tmp_path / "whole") as episodes:
        play(fakes, episodes, short)
    for role in ROLES:
        assert set(read(tmp_path / "pieces", role)) == set(read(tmp_path / "whole", role))


def test_another_machine_is_a_build_of_its_own_and_completes_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = PLAN.cases()[:2]
    with opened(tmp_path) as episodes:
        for role in ROLES:
            add(episodes, role, first)
        add(episodes, BASELINE, second)
        add(episodes, "full", second)
    there = {**HERE, "arithmetic": {"cpu": "there"}, "packs": {"full": "3", "quantvla": "2"}}
    with opened(tmp_path, build=there) as episodes:
        assert "computes otherwise" in capsys.readouterr().err
        assert episodes.missing(first, ROLES) == []
        assert episodes.missing(second, ROLES) == [BASELINE, NOISE_FLOOR, "quantvla"]  # `full` has its pair
        for role in (BASELINE, NOISE_FLOOR, "quantvla"):
            add(episodes, role, second, success=False)
        assert episodes.missing(second, ROLES) == []
        of_full = pairs(episodes.played["full"], episodes.played[BASELINE])
        assert [theirs.success for _, theirs in of_full] == [True, True]  # not with the other machine's baseline
    with opened(tmp_path) as episodes:
        assert episodes.build == 0
        assert not any(episodes.missing(case, ROLES) for case in (first, second))


def test_other_integers_of_the_same_machine_are_another_build(tmp_path: Path) -> None:
    with opened(tmp_path) as episodes:
        assert episodes.build == 0
    with opened(tmp_path, policies={BASELINE: "w", "new": "n"}, build={**HERE, "packs": {"new": "9"}}) as episodes:
        assert episodes.build == 0  # a policy that comes later
    with opened(tmp_path, build={**HERE, "packs": {"full": "other", "quantvla": "2"}}) as episodes:
        assert episodes.build == 1
    assert json.loads((tmp_path / "run.json").read_text())["builds"][0]["packs"] == {**HERE["packs"], "new": "9"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": {**RUN, "policy.weights": "v"}}, "policy.weights: 'w' there, 'v' here"),
        ({"policies": {**POLICIES, "full": "g"}}, "full: 'f' there, 'g' here"),
    ],
)
def test_another_policy_or_recipe_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with opened(tmp_path):
        pass
    with pytest.raises(InputError, match=said):
        opened(tmp_path, **change)


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(WorkError, match="another run writes"):
        opened(tmp_path)


def test_a_torn_last_line_is_dropped_and_damage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = [Episode(0, 1, 2, True, 80, 0), Episode(1, 1, 2, False, 220, 0)]
    path = tmp_path / "full.jsonl"
    path.write_text("".join(episode.line() for episode in whole) + "[1,2")
    assert list(read(tmp_path, "full")) == whole
    assert "torn last line" in capsys.readouterr().err
    assert path.read_text() == "[0,1,2,1,80,0]\n[1,1,2,0,220,0]\n"
    path.write_text("[1,2]\n" + path.read_text())
    with pytest.raises(InputError, match="line 1 is damaged"):
        list(read(tmp_path, "full"))


def test_rows_keep_the_contract_and_count_pairs_only(tmp_path: Path) -> None:
    cases = replace(PLAN, init_states=tuple(range(20)), noise_seeds=3).cases()
    with opened(tmp_path) as episodes:
        for number, case in enumerate(cases):
            add(episodes, BASELINE, case, success=number % 10 > 0)
            add(episodes, NOISE_FLOOR, case, success=number % 10 != 1)
            add(episodes, "full", case, success=number % 10 > 1)
        add(episodes, "quantvla", cases[0])
        found = {row["policy"]: row for row in large.rows(episodes, dict.fromkeys(ROLES, 3_000_000))}
    keys = {"policy", "bits", "episodes", "success_rate", "ci95", "p_value", "drop_upper95", "noise_floor"}
    assert all(keys <= set(row) for row in found.values())
    assert set(found) == {"float", *ROLES[1:]}
    assert (found["float"]["success_rate"], found["float"]["drop"]) == (0.9, None)
    full = found["full"]
    assert (full["episodes"], full["success_rate"], full["discordant"]) == (120, 0.8, 12)
    assert full["drop"] == pytest.approx(0.1)
    assert full["drop"] < full["drop_upper95"] < full["drop_ci95"][1] + 0.05
    assert full["noise_floor"]["discordant"] == 24
    assert found["quantvla"]["episodes"] == 1
    assert "| `full` | W4/8A8 | 120 | 80.0 % |" in large.table({"rows": list(found.values())})


def test_there_are_enough_noise_seeds_for_the_pairs_that_are_asked_for() -> None:
    few = large.noise_seeds(80, [BASELINE, NOISE_FLOOR, "full", "quantvla"], None)
    assert few == {BASELINE: 25, NOISE_FLOOR: 25, "full": 25, "quantvla": 7}
    many = large.noise_seeds(200, [BASELINE, "full", "quantvla"], None)
    assert many == {BASELINE: 10, "full": 10, "quantvla": 3}
    assert set(large.noise_seeds(80, few, 1).values()) == {1}


def test_every_run_has_w8a8_and_it_is_all_8_bits() -> None:
    assert large.bits(large.W8A8) == "W8A8"
    assert {"full", "w8a8", "quantvla", "guide-full"} <= set(large.PLAYERS)


def test_bits_are_named_where_a_layer_chooses_its_own_groups() -> None:
    recipe = Recipe(overrides=(("k_proj$", 8), ("fc1$", Choice(4, group_size=32))))
    assert large.bits(recipe) == "W4/8A8"
