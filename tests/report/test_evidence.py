"""What a report is given is recognized by what it is, and refused by name where it is nothing of the kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import benched, compared, write_run

from vlapack.errors import InputError
from vlapack.report.evidence import gather


def saved(path: Path, document: dict[str, Any]) -> str:
    path.write_text(json.dumps(document))
    return str(path)


def test_inputs_come_in_any_order_and_count_once(tmp_path: Path, random_checkpoint: Path) -> None:
    run = write_run(tmp_path / "run")
    names = [
        saved(tmp_path / "b.json", benched()),
        str(random_checkpoint),
        str(run),
        saved(tmp_path / "c.json", compared()),
        "tiny-libero",
        str(run),
    ]
    found = gather(names)
    assert [len(kind) for kind in (found.runs, found.compared, found.benched, found.packs)] == [1, 1, 1, 0]
    assert found.parents == [str(random_checkpoint), "tiny-libero"]


def test_the_frontier_of_a_tuning_is_one_of_the_inputs() -> None:
    measured = Path(__file__).parents[2] / "benchmarks" / "results" / "frontier-tiny-libero.json"
    document = json.loads(measured.read_text())
    [found] = gather([str(measured)]).frontiers
    assert [point.held_bytes for point in found.points] == [point["held_bytes"] for point in document["points"]]
    assert found.sensitivity == document["sensitivity"]


@pytest.mark.parametrize("name", ["plan.json", "episodes.jsonl", "summary.json"])
def test_a_file_of_a_run_asks_for_its_folder(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    with pytest.raises(InputError, match="is a part of a run: give its folder"):
        gather([str(folder / name)])


@pytest.mark.parametrize("change", [{"deviation": {"p50": 1.0}}, {"frames": -1}, {"dimensions": "x"}])
def test_a_document_of_another_version_names_the_command_and_the_field(tmp_path: Path, change: dict[str, Any]) -> None:
    path = saved(tmp_path / "compare.json", {**compared(), **change})
    with pytest.raises(InputError, match=rf"`vlapack compare --json` writes today: {next(iter(change))}"):
        gather([path])


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "compare.json", {**compared(), "deviation": {"p50": float("nan"), "p95": 0.0, "max": 0.0}})
    with pytest.raises(InputError, match=r"deviation\.p50"):
        gather([path])


@pytest.mark.parametrize(
    ("text", "words"), [("{}", "not of a kind that a report knows"), ("[]", "JSON object"), ("a log line", "not valid")]
)
def test_any_other_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "compare.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        gather([str(path)])


def test_a_name_that_is_nothing_says_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give folders of `vlapack eval`, packs"):
        gather([str(tmp_path / "nothing")])
