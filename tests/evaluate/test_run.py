"""The evaluation on fake simulators in real worker processes: what no kill, crash or worker count may change."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulators
from extras import needs
from fakes import Drunkard, contender, plan

from vlapack.errors import InputError, WorkError
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import NOISE_FLOOR
from vlapack.evaluate.run import conclude, evaluate, video_path
from vlapack.evaluate.worker import filming


def courses(records: list[Record]) -> list[tuple[int, int, bool | None, int]]:
    return [(record.task_id, record.init_state, record.success, record.steps) for record in records]


def test_results_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    found = []
    for workers in (1, 3):
        entry = contender("policy", Drunkard())
        out = tmp_path / str(workers)
        found.append(
            courses(
                evaluate(plan([entry]), [entry], out, workers=workers, factory=simulators.walk, videos=False)["policy"]
            )
        )
    assert found[0] == found[1]
    assert len({steps for _, _, _, steps in found[0]}) > 1, "the courses must depend on the noise"


def test_both_policies_get_the_same_noise(tmp_path: Path) -> None:
    ours, theirs = contender("policy", Drunkard()), contender("baseline", Drunkard())
    found = evaluate(plan([ours, theirs]), [theirs, ours], tmp_path, workers=1, factory=simulators.walk, videos=False)
    assert courses(found["policy"]) == courses(found["baseline"])


def test_the_instruction_is_on_record(tmp_path: Path) -> None:
    entry = contender("policy", Drunkard())
    evaluate(plan([entry]), [entry], tmp_path, workers=1, factory=simulators.walk, videos=False)
    rows = map(json.loads, (tmp_path / "episodes.jsonl").read_text().splitlines())
    assert {(row["task_id"], row["prompt"]) for row in rows} == {(0, "walk 0"), (1, "walk 1")}


def test_noise_seeds_are_other_courses_and_the_floor_is_yet_another(tmp_path: Path) -> None:
    ours, theirs = contender("policy", Drunkard()), contender("baseline", Drunkard())
    entries = [theirs, replace(theirs, role=NOISE_FLOOR), ours]
    many = plan(entries, tasks=1, trials=2, noise_seeds=3)
    found = evaluate(many, entries, tmp_path, workers=2, factory=simulators.walk, videos=False)
    assert courses(found["policy"]) == courses(found["baseline"])
    steps = {case: len({r.steps for r in found["policy"] if r.init_state == case}) for case in (0, 1)}
    assert max(steps.values()) > 1, "the courses must depend on the noise seed"
    assert courses(found[NOISE_FLOOR]) != courses(found["baseline"])
    summary = conclude(many, found, tmp_path, names=("pack", "float"))
    assert (summary["noise_seeds"], summary["episodes"]) == (3, 6)
    assert summary["noise_floor"]["kind"] == "another noise seed"
    assert summary["noise_floor"]["episodes"] == 6
    assert len({video_path("policy", case) for case in many.cases()}) == 6


def test_a_second_run_plays_only_what_is_missing(tmp_path: Path) -> None:
    entry = contender("policy", Drunkard())
    whole = evaluate(plan([entry]), [entry], tmp_path, workers=2, factory=simulators.walk, videos=False)
    path = tmp_path / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:30])
    again = Drunkard()
    entry = contender("policy", again)
    resumed = evaluate(plan([entry]), [entry], tmp_path, workers=2, factory=simulators.walk, videos=False)
    assert courses(resumed["policy"]) == courses(whole["policy"])
    assert len(path.read_text().splitlines()) == len(lines)
    assert again.seen, "four episodes were missing"


def test_a_finished_evaluation_loads_no_policy(tmp_path: Path) -> None:
    entry = contender("policy", Drunkard())
    first = evaluate(plan([entry]), [entry], tmp_path, workers=2, factory=simulators.walk, videos=False)

    def load() -> Drunkard:
        raise AssertionError("nothing is missing")

    assert (
        evaluate(plan([entry]), [replace(entry, load=load)], tmp_path, factory=simulators.never, videos=False) == first
    )


def test_crashes_are_errors_and_the_other_episodes_have_results(tmp_path: Path) -> None:
    entry = contender("policy", Drunkard())
    records = evaluate(plan([entry], tasks=1), [entry], tmp_path, workers=2, factory=simulators.failing, videos=False)[
        "policy"
    ]
    assert [record.error is None for record in records] == [True, False, False]
    assert "the physics exploded" in str(records[1].error)
    assert "exit code -9" in str(records[2].error)
    assert records[1].success is None


def test_a_worker_that_dies_is_replaced_and_its_episode_run_again_with_its_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("FAKE_MARK", str(mark))
    entry = contender("policy", Drunkard())
    died = evaluate(plan([entry]), [entry], tmp_path / "died", workers=1, factory=simulators.failing_once, videos=False)
    assert mark.exists()
    entry = contender("policy", Drunkard())
    calm = evaluate(plan([entry]), [entry], tmp_path / "calm", workers=1, factory=simulators.walk, videos=False)
    assert courses(died["policy"]) == courses(calm["policy"])


def test_a_simulator_that_never_works_stops_the_evaluation(tmp_path: Path) -> None:
    entry = contender("policy", Drunkard())
    with pytest.raises(WorkError, match="no display at all"):
        evaluate(plan([entry], tasks=1, trials=9), [entry], tmp_path, workers=2, factory=simulators.never, videos=False)


def test_bad_input_seen_by_a_worker_is_bad_input(tmp_path: Path) -> None:
    entry = contender("policy", Drunkard())
    with pytest.raises(InputError, match="without a screen"):
        evaluate(plan([entry]), [entry], tmp_path, workers=2, factory=simulators.blind, videos=False)


def test_one_policy_is_freed_before_the_next_is_loaded(tmp_path: Path) -> None:
    alive: list[weakref.ref[Drunkard]] = []

    def load() -> Drunkard:
        gc.collect()
        assert not any(reference() for reference in alive), "the policy before this one is still in memory"
        policy = Drunkard()
        alive.append(weakref.ref(policy))
        return policy

    entries = [replace(contender(role, Drunkard()), load=load) for role in ("baseline", "policy")]
    evaluate(plan(entries, tasks=1, trials=1), entries, tmp_path, workers=1, factory=simulators.walk, videos=False)
    assert len(alive) == 2


@pytest.mark.parametrize(("fps", "every"), [(20.0, 1), (4.0, 5)])
def test_every_episode_leaves_a_video_that_plays(tmp_path: Path, fps: float, every: int) -> None:
    needs("imageio_ffmpeg", remedy="pip install '.[libero]'")
    import imageio_ffmpeg

    entries = [contender("baseline", Drunkard()), contender("policy", Drunkard())]
    few = plan(entries, tasks=1, trials=1)
    found = evaluate(few, entries, tmp_path, workers=1, video_fps=fps, factory=simulators.walk)
    assert found["policy"][0].video == "videos/libero_spatial_0/eval_episode_0.mp4"
    assert found["baseline"][0].video == "videos/baseline/libero_spatial_0/eval_episode_0.mp4"
    for records in found.values():
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / str(records[0].video)))
        assert frames == 1 + records[0].steps // every
        assert seconds == pytest.approx(frames / fps, abs=0.01)
    assert not list(tmp_path.rglob("*.partial*"))


def test_an_episode_that_fails_leaves_no_part_of_a_video(tmp_path: Path) -> None:
    needs("imageio_ffmpeg", remedy="pip install '.[libero]'")

    def explode() -> None:
        with filming(tmp_path / "episode.mp4", 20.0) as film:
            film(np.zeros((32, 64, 3), dtype=np.uint8))
            raise RuntimeError("the physics exploded")

    with pytest.raises(RuntimeError, match="exploded"):
        explode()
    assert list(tmp_path.iterdir()) == []


def test_the_plan_is_on_record(tmp_path: Path) -> None:
    entry = contender("policy", Drunkard(), digest="abc")
    evaluate(plan([entry]), [entry], tmp_path, workers=1, factory=simulators.walk, videos=False)
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert stored["policy.weights"] == "abc"
    assert not (tmp_path / "videos").exists()
