"""Success against latency: every point gets its hundred episodes, and stopped runs go on."""

from __future__ import annotations

import importlib
import math
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import realtime
from common import realtime_curve as curve
from common.episodes import BASELINE, read
from realtime import POINTS, Point

from vlapack.evaluate.plan import Plan

TASKS = (("libero_spatial", 0), ("libero_spatial", 3))
PLAN = Plan(tasks=TASKS, init_states=(0, 1), policies={}, noise_seeds=2)
BUILD = {"arithmetic": {"cpu": "here"}, "packs": {"full": "1"}, "date": "today"}


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "evaluate"))
    monkeypatch.setattr(realtime, "simulator", lambda: "none")
    return importlib.import_module("fakes")


def play(fakes: Any, point: Point, folder: Path, seconds: float = math.inf) -> None:
    simulators = importlib.import_module("simulators")
    policy = fakes.Drunkard()
    entries = {role: fakes.contender(role, policy) for role in (BASELINE, "full")}
    acting = dict.fromkeys(entries, policy)
    end = time.monotonic() + seconds
    with realtime.opened(folder, point, PLAN, entries, BUILD) as episodes:
        realtime.play_point(point, PLAN, acting, episodes, workers=1, end=end, factory=simulators.walk)


def test_every_point_has_its_hundred_episodes_and_those_that_are_compared_400_pairs() -> None:
    assert 7 * realtime.STARTS >= 100
    assert 5 * realtime.MOVING_STARTS >= 100
    compared = {point.latency for point in POINTS if 7 * realtime.STARTS * point.seeds >= 400}
    assert compared == set(curve.COMPARED)
    assert {(point.mode, point.latency) for point in POINTS if not point.drift} >= {
        (mode, latency) for mode in curve.MODES for latency in range(1, 6)
    }


def test_a_point_that_is_stopped_goes_on_and_is_played_once(tmp_path: Path, fakes: Any) -> None:
    point = Point("async", 1)
    play(fakes, point, tmp_path / "async-1", seconds=0)
    assert sum(len(list(read(tmp_path / "async-1", role))) for role in (BASELINE, "full")) == 1
    play(fakes, point, tmp_path / "async-1")
    play(fakes, point, tmp_path / "async-1")
    played = {role: list(read(tmp_path / "async-1", role)) for role in (BASELINE, "full")}
    assert {role: len(found) for role, found in played.items()} == {BASELINE: 8, "full": 8}
    assert all(len(one.more) == (4 if one.noise == 0 else 2) for one in played["full"])  # jumps of one noise seed


def test_a_curve_begins_where_time_stands_still(tmp_path: Path, fakes: Any) -> None:
    points = {point.name: point for point in (Point("sync-free", 0), Point("async", 1), Point("rtc", 0))}
    for name in ("sync-free-0", "async-1"):
        play(fakes, points[name], tmp_path / name)
    rows = curve.rows(tmp_path, points)
    assert [row["latency"] for row in curve.points(rows, "full", "async", False)] == [0, 1]
    assert curve.points(rows, "full", "rtc", False) == []
    assert curve.points(rows, "full", "async", True) == []
    packed = [row for row in rows if row["policy"] == "full"]
    assert all(row["pairs"] == row["episodes"] == 8 for row in packed)
    assert [row["drop"] for row in packed] == [0, 0]  # the same policy with the same noise
    assert "<svg" in curve.drawn(curve.of_curves(rows))
    assert curve.curve_table(rows).count("\n| stands still") == 2


def test_joints_that_are_compared_by_their_jumps_are_no_part_of_the_curve(tmp_path: Path, fakes: Any) -> None:
    joints = Point("rtc", 4, guidance="vjp"), Point("rtc", 4, execution_horizon=9)
    points = {point.name: point for point in (Point("async", 4), *joints)}
    assert set(points) == {"async-4", "rtc-4-vjp", "rtc-4-9rows"}
    play(fakes, points["async-4"], tmp_path / "async-4")
    for name in ("rtc-4-vjp", "rtc-4-9rows"):  # no policy of the fakes can continue a chunk
        (tmp_path / name).symlink_to(tmp_path / "async-4")
    rows = curve.rows(tmp_path, points)
    assert {row["mode"] for row in curve.of_curves(rows)} == {"async"}
    table = curve.jump_table(rows)
    assert "| `vjp` | float |" in table
    assert "| `lerobot`, 9 rows | float |" in table
    assert curve.jump_table(curve.of_curves(rows)).count("1.00 |") == 4  # `async` against itself
