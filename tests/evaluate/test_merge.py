"""Shards of one plan become what one machine would have played; everything else is refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import simulators
from fakes import Drunkard, contender, plan, records

from vlapack.errors import InputError
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.merge import merge
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.run import evaluate
from vlapack.evaluate.shard import Shard, parse_shard
from vlapack.evaluate.store import Store
from vlapack.files import try_lock

PLAN = plan([contender("baseline", Drunkard()), contender("policy", Drunkard())], tasks=2, trials=5)
CASES = PLAN.cases()


def play_shard(out: Path, text: str, *, of: Plan = PLAN, without: int = 0, wins: bool = True) -> Path:
    """Leave a shard's folder, its last episodes missing."""
    shard = parse_shard(text)
    with Store(shard.folder(out), of, shard) as store:
        for role in of.policies:
            own = set(store.cases[: len(store.cases) - without])
            for record in records(of, role, [wins] * len(of.cases())):
                if record.case in own:
                    store.append(record)
    return shard.folder(out)


def test_shards_are_all_of_the_plan_once() -> None:
    for count in (1, 3, 7, 10):
        parts = [Shard(index, count).of(CASES) for index in range(1, count + 1)]
        assert [case for part in parts for case in part] == CASES
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3", "1/3/4", "1 / 3", "١/٣"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a part such as 3/8"):
        parse_shard(text)


def test_three_machines_play_what_one_does(tmp_path: Path) -> None:
    """Played for real: noise and simulator seeds must not depend on where a case is played."""
    entries = [contender("baseline", Drunkard(0.3)), contender("policy", Drunkard(0.1))]
    few = plan(entries, tasks=2, trials=4, noise_seeds=2)

    def course(found: dict[str, list[Record]]) -> list[tuple[object, ...]]:
        return [(role, r.case, r.success, r.steps) for role, played in found.items() for r in played]

    options = {"workers": 1, "factory": simulators.walk, "videos": False}
    whole = evaluate(few, entries, tmp_path / "whole", **options)  # type: ignore[arg-type]
    for index in (3, 1, 2):
        evaluate(few, entries, tmp_path / "parts", shard=Shard(index, 3), **options)  # type: ignore[arg-type]
    found, merged = merge(tmp_path / "parts")
    assert found == few
    assert course(merged) == course(whole)
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("whole", "parts")]
    assert plans[0] == plans[1]
    with Store(tmp_path / "parts", few) as store:  # the folder is one like any other
        assert not store.missing("policy")


def test_merging_again_changes_nothing(tmp_path: Path) -> None:
    for index in (1, 2):
        play_shard(tmp_path, f"{index}/2")
    merge(tmp_path)
    before = (tmp_path / "episodes.jsonl").read_bytes()
    merge(tmp_path)
    assert (tmp_path / "episodes.jsonl").read_bytes() == before


def test_videos_are_found_where_their_shard_left_them(tmp_path: Path) -> None:
    play_shard(tmp_path, "1/1")
    _, merged = merge(tmp_path)
    assert merged["policy"][0].video == "shards/1-of-1/videos/libero_spatial_0/eval_episode_0.mp4"


def test_missing_shards_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    for index in (1, 4):
        play_shard(tmp_path, f"{index}/5")
    with pytest.raises(InputError, match="no shard 2/5, 3/5, 5/5"):
        merge(tmp_path)
    assert not (tmp_path / "episodes.jsonl").exists()


def test_a_shard_that_is_not_done_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    play_shard(tmp_path, "1/2")
    play_shard(tmp_path, "2/2", without=1)
    with pytest.raises(InputError, match=r"shard 2/2 .* lacks 2 of 10 episodes"):
        merge(tmp_path)


def test_partial_merges_what_is_there_says_so_and_the_rest_can_be_played_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play_shard(tmp_path, "1/3")
    play_shard(tmp_path, "2/3", without=1)
    _, merged = merge(tmp_path, partial=True)
    said = capsys.readouterr().err
    assert "merged without: no shard 3/3" in said
    assert "lacks 2 of 6" in said
    assert len(merged["policy"]) == len(merged["baseline"]) == 5
    with Store(tmp_path, PLAN) as store:
        assert len(store.missing("policy")) == 5
        store.append(records(PLAN, "policy", [True] * 10)[-1])
    play_shard(tmp_path, "2/3")
    play_shard(tmp_path, "3/3")
    _, merged = merge(tmp_path)  # what was played in the merged folder stays
    assert len(merged["policy"]) == 10


def test_shards_of_another_plan_are_refused_with_what_differs(tmp_path: Path) -> None:
    play_shard(tmp_path, "1/2")
    play_shard(tmp_path, "2/2", of=replace(PLAN, seed=8))
    with pytest.raises(InputError, match=r"another plan.*\n.*seed: 7 in shard 1/2 .*, 8"):
        merge(tmp_path)


def test_shards_of_two_ways_to_cut_are_refused(tmp_path: Path) -> None:
    play_shard(tmp_path, "1/2")
    play_shard(tmp_path, "2/3")
    with pytest.raises(InputError, match="shards of 2 and of 3 parts"):
        merge(tmp_path)


def test_the_same_shard_from_two_clusters_is_fine_if_they_agree(tmp_path: Path) -> None:
    play_shard(tmp_path / "a", "1/1")
    play_shard(tmp_path / "b", "1/1")
    _, merged = merge(tmp_path / "a", [tmp_path / "b"])
    assert len(merged["policy"]) == 10


def test_different_results_of_one_episode_are_refused_with_both(tmp_path: Path) -> None:
    play_shard(tmp_path / "a", "1/1")
    play_shard(tmp_path / "b", "1/1", wins=False)
    with pytest.raises(InputError, match=r"success after 10 steps in .*, failure after 30 steps in .*; remove"):
        merge(tmp_path / "a", [tmp_path / "b"])


def test_another_machine_is_said_and_the_plan_no_longer_names_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, cpu in ((1, "Zen 4"), (2, "Ice Lake")):
        play_shard(tmp_path, f"{index}/2", of=replace(PLAN, arithmetic={"cpu": cpu, "torch": "2.7"}))
    merge(tmp_path)
    assert "different cpu: 'Ice Lake', 'Zen 4'" in capsys.readouterr().err
    document = json.loads((tmp_path / "plan.json").read_text())
    assert "cpu" not in document
    assert document["torch"] == "2.7"


def test_a_result_goes_before_an_error(tmp_path: Path) -> None:
    folder = play_shard(tmp_path / "a", "1/1")
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    failed = json.loads(lines[0]) | {"success": None, "error": "died", "video": None}
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (folder / "episodes.jsonl").write_text("\n".join([json.dumps(failed), *lines[1:]]) + "\n")
    _, merged = merge(tmp_path / "a", [tmp_path / "b"])
    assert merged["baseline"][0].success is True


def test_a_shard_that_is_being_played_is_refused(tmp_path: Path) -> None:
    folder = play_shard(tmp_path, "1/1")
    with (folder / "episodes.jsonl").open("rb") as file:
        assert try_lock(file)
        with pytest.raises(InputError, match="being played at this moment"):
            merge(tmp_path)


def test_a_folder_without_shards_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no shards"):
        merge(tmp_path)
    with pytest.raises(InputError, match="is not a shard"):
        merge(tmp_path, [tmp_path / "elsewhere"])


def test_a_shards_folder_is_not_continued_as_another_one(tmp_path: Path) -> None:
    folder = play_shard(tmp_path, "1/2")
    with pytest.raises(InputError, match="shard: '1/2' there, '2/2' here"):
        Store(folder, PLAN, Shard(2, 2))
    with pytest.raises(InputError, match="shard: '1/2' there, None here"):
        Store(folder, PLAN)
