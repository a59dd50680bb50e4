"""Which pairs a page shows first, and what it calls them."""

from __future__ import annotations

import json
from pathlib import Path

from made_runs import write_run

from vlapack.report.episodes import ALIKE, Episodes, episodes
from vlapack.report.runs import Run
from vlapack.report.videos import Budget


def shown(tmp_path: Path, floating: list[bool | None] | None, packed: list[bool | None]) -> Episodes:
    run = Run.read(write_run(tmp_path / "run", float_wins=floating, packed_wins=packed, tasks=1))
    return episodes(run.comparisons, Budget(10**7, tmp_path / "report.html"))


def test_both_kinds_of_disagreement_are_shown(tmp_path: Path) -> None:
    found = shown(tmp_path, [True] * 12 + [False] * 3 + [True], [False] * 12 + [True] * 4)
    assert [(group.heading, len(group.shown)) for group in found.groups] == [
        ("Only float succeeds", 10),
        ("Only packed succeeds", 3),
    ]
    assert found.groups[0].says.startswith("10 of 12")
    assert found.fails[0].says.startswith("In 12 of 16 pairs only the float policy succeeds, in 3 only the packed one")


def test_a_run_without_disagreements_says_so_and_calls_no_pair_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", float_wins=[True, False], packed_wins=[True, False], tasks=1)
    rows = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    rows[-1]["steps"] += 12
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = episodes(Run.read(folder).comparisons, Budget(10**7, tmp_path / "report.html"))
    assert "all 2 pairs ended alike (both policies succeed in 1, neither in 1)" in found.fails[0].says
    assert found.fails[0].shown == []
    assert [(group.heading.startswith("Ended alike"), len(group.shown)) for group in found.groups] == [(True, 1)]


def test_with_a_disagreement_no_pair_that_ended_alike_is_beside_it(tmp_path: Path) -> None:
    found = shown(tmp_path, [True, True, False], [False, True, False])
    assert [row.kind for row in found.worst] == ["only float"]
    assert ALIKE in {row.kind for row in found.rows}


def test_a_policy_alone_shows_its_failures(tmp_path: Path) -> None:
    found = shown(tmp_path, None, [True, False, None, False])
    assert found.fails[0].says == "2 of 3 episodes fail."
    assert [row.kind for row in found.worst] == ["failure", "failure"]


def test_pairs_of_which_one_is_missing_are_no_disagreement(tmp_path: Path) -> None:
    found = shown(tmp_path, [True, True], [None, None])
    assert found.worst == []
    assert found.fails[0].says == "No case was played by both policies yet."
