"""A run that grows, is killed, goes on, is merged: the figures are those that a full reading gives."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from growing import Clock, Growing

from vlapack.errors import InputError, WorkError
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.shard import Shard
from vlapack.evaluate.store import Store
from vlapack.report.reading import read_plan, read_record
from vlapack.report.runs import Run
from vlapack.watch import followed as followed_module
from vlapack.watch.followed import FAILURE, NO_RESULT, SUCCESS, Followed


def as_read_whole(folder: Path) -> dict[str, bytearray]:
    """What the report reads, in the form of `Followed.results`."""
    run = Run.read(folder)
    found = {role: bytearray(len(run.plan.cases())) for role in run.plan.policies}
    for role, records in run.records.items():
        for case, record in records.items():
            kind = NO_RESULT if record.success is None else SUCCESS if record.success else FAILURE
            found[role][run.plan.cases().index(case)] = kind
    return found


def test_a_run_followed_line_by_line_is_what_the_report_reads(growing: Growing) -> None:
    growing.play(1)
    run = Followed(growing.folder, keep=True)
    while growing.played < len(growing.lines):
        line = growing.lines[growing.played]
        growing.write(line[:30])
        assert run.look() == 0, "the line is not whole"
        growing.write(line[30:])
        growing.played += 1
        assert run.look() == 1
        assert run.results == as_read_whole(growing.folder)
    assert run.records == Run.read(growing.folder).records


def test_a_plan_without_episodes_is_a_run_at_its_beginning(growing: Growing) -> None:
    run = Followed(growing.folder)
    assert run.look() == 0
    assert run.heard is None
    growing.play(2)
    assert run.look() == 2
    assert run.results == as_read_whole(growing.folder)


def test_a_killed_run_goes_on_where_its_torn_line_was(growing: Growing) -> None:
    growing.play(3)
    growing.write(growing.lines[3][:50])
    run = Followed(growing.folder)
    assert sum(map(bool, run.results["baseline"])) == 3
    plan = read_plan(growing.folder / "plan.json")
    with Store(growing.folder, plan) as store:  # drops the torn line, as the same command does
        for line in growing.lines[3:6]:
            store.append(read_record(line, plan, "a line"))
        assert run.look() == 3
        assert run.writing
    assert run.results == as_read_whole(growing.folder)


def test_a_simulator_error_that_was_played_again_counts_once(tmp_path: Path) -> None:
    growing = Growing(tmp_path, packed_wins=(None, True, False, True, True, False))
    growing.play(12)
    run = Followed(growing.folder)
    assert run.results["policy"][0] == NO_RESULT
    again = json.loads(growing.lines[6]) | {"success": False, "steps": 30, "error": None}
    growing.write(json.dumps(again).encode() + b"\n")
    assert run.look() == 1
    assert run.results == as_read_whole(growing.folder)
    assert [record.init_state for _, record in run.failures["policy"]] == [2, 2, 0]


def test_nothing_in_the_folder_changes(growing: Growing) -> None:
    growing.play(4)
    growing.write(b'{"role"')
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in growing.folder.rglob("*") if path.is_file()
    }
    Followed(growing.folder).look()
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in growing.folder.rglob("*") if path.is_file()
    }


def test_a_run_that_begins_while_somebody_looks_is_not_refused(growing: Growing) -> None:
    growing.play(2)
    plan = read_plan(growing.folder / "plan.json")
    with growing.episodes.open("rb") as file:
        import fcntl
        import threading

        fcntl.flock(file, fcntl.LOCK_EX)  # as `is_locked` does for a moment
        threading.Timer(0.05, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with Store(growing.folder, plan):
            pass


def test_the_record_that_was_written_again_is_read_again(growing: Growing) -> None:
    growing.play(5)
    run = Followed(growing.folder)
    (growing.folder / "new").write_bytes(b"".join(growing.lines[:9]))
    os.replace(growing.folder / "new", growing.episodes)
    run.look()
    assert run.results == as_read_whole(growing.folder)


def test_a_folder_that_is_gone_is_said(growing: Growing) -> None:
    growing.play(2)
    run = Followed(growing.folder)
    shutil.rmtree(growing.folder)
    with pytest.raises(WorkError, match="is gone"):
        run.look()


@pytest.mark.parametrize("there", [True, False])
def test_no_run_names_what_to_do(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="no run in it yet" if there else "not there yet"):
        Followed(tmp_path / "run")


def test_a_damaged_line_is_named(growing: Growing) -> None:
    growing.play(2)
    run = Followed(growing.folder)
    growing.write(b"{}\n")
    with pytest.raises(InputError, match="line 3 is damaged"):
        run.look()


def shards_of(growing: Growing, plan: Plan, begun: int) -> None:
    """Move the run into three shards, of which so many have begun."""
    growing.episodes.unlink(missing_ok=True)
    document = json.loads((growing.folder / "plan.json").read_text())
    (growing.folder / "plan.json").unlink()
    for index in range(1, begun + 1):
        shard = Shard(index, 3)
        folder = shard.folder(growing.folder)
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(json.dumps({**document, "shard": str(shard)}))
        places = shard.places(len(plan.cases()))
        lines = [line for line in growing.lines if plan.number(read_record(line, plan, "").case) in places]
        (folder / "episodes.jsonl").write_bytes(b"".join(lines))


def test_shards_are_followed_together_and_one_alone(growing: Growing) -> None:
    plan = read_plan(growing.folder / "plan.json")
    shards_of(growing, plan, begun=2)
    run = Followed(growing.folder)
    assert [sum(map(bool, found)) for found in run.results.values()] == [4, 4]
    assert len(run.cases) == 6
    alone = Followed(Shard(2, 3).folder(growing.folder))
    assert alone.cases == range(2, 4)


def test_a_shard_that_begins_later_is_found_and_so_is_the_merged_run(growing: Growing, tmp_path: Path) -> None:
    plan = read_plan(growing.folder / "plan.json")
    shards_of(growing, plan, begun=3)
    last = Shard(3, 3).folder(growing.folder)
    last.rename(tmp_path / "kept")
    run = Followed(growing.folder)
    (tmp_path / "kept").rename(last)
    run.look()
    growing.episodes.write_bytes(b"".join(growing.lines))
    shutil.copy(tmp_path / "whole" / "plan.json", growing.folder)
    run.look()
    assert run.results == as_read_whole(growing.folder)
    assert not run.writing
    assert run.pace.per_second(run.clock()) is None, "what was merged was not played now"


def test_videos_of_shards_are_named_from_the_runs_folder(tmp_path: Path) -> None:
    growing = Growing(tmp_path)
    growing.lines = [
        json.dumps(json.loads(line) | {"video": "videos/a/b.mp4"}).encode() + b"\n" for line in growing.lines
    ]
    shards_of(growing, read_plan(growing.folder / "plan.json"), begun=1)
    run = Followed(growing.folder, keep=True)
    assert {record.video for record in run.records["policy"].values()} == {"shards/1-of-3/videos/a/b.mp4"}


def test_a_shard_of_another_plan_is_refused(growing: Growing) -> None:
    shards_of(growing, read_plan(growing.folder / "plan.json"), begun=2)
    path = Shard(2, 3).folder(growing.folder) / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 8}))
    with pytest.raises(InputError, match="another plan"):
        Followed(growing.folder)


def test_the_lock_is_asked_for_rarely_and_not_while_the_run_grows(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(followed_module, "is_locked", lambda path: bool(asked.append(path)))
    clock = Clock()
    growing.play(1)
    run = Followed(growing.folder, clock=clock)
    for _ in range(9):
        clock.now += 1
        run.look()
        growing.play()
    assert len(asked) == 1
    for _ in range(25):
        clock.now += 1
        run.look()
    assert len(asked) == 3


def test_a_run_is_known_to_be_played_and_to_be_stopped(growing: Growing) -> None:
    growing.play(3)
    clock = Clock()
    with growing.playing():
        run = Followed(growing.folder, clock=clock)
        assert run.writing
    clock.now += 11
    run.look()
    assert not run.writing


def test_who_comes_late_knows_the_pace_from_the_videos(tmp_path: Path) -> None:
    growing = Growing(tmp_path)
    growing.lines = [
        json.dumps(json.loads(line) | {"video": f"videos/{number}.mp4"}).encode() + b"\n"
        for number, line in enumerate(growing.lines)
    ]
    (growing.folder / "videos").mkdir()
    clock = Clock()
    for number in range(6):
        path = growing.folder / "videos" / f"{number}.mp4"
        path.touch()
        os.utime(path, (clock.now - 100 + 20 * number,) * 2)
    growing.play(6)
    with growing.playing():
        run = Followed(growing.folder, clock=clock)
    assert run.pace.per_second(clock.now) == pytest.approx(1 / 20)
