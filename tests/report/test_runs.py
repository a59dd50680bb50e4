"""Reading a run that is finished, stopped, under way or damaged; nothing in it may change."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest
from made_runs import FLOAT, PACKED, write_run

from vlapack.errors import InputError
from vlapack.report.runs import Run
from vlapack.report.verdict import answer


def lines_of(folder: Path) -> list[str]:
    return (folder / "episodes.jsonl").read_text().splitlines(keepends=True)


def test_the_figures_are_those_of_the_evaluation(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    [comparison] = Run.read(folder).comparisons
    wanted = json.loads((folder / "summary.json").read_text())
    assert json.loads(json.dumps(comparison.summary)) == wanted
    assert comparison.run.state is None


def test_reading_leaves_every_byte_as_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=2)
    with (folder / "episodes.jsonl").open("a") as file:
        file.write('{"role": "pol')
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    Run.read(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    whole = Run.read(folder).episodes
    lines = lines_of(folder)
    (folder / "episodes.jsonl").write_text("".join(lines[:-1]) + lines[-1][:40])
    found = Run.read(folder)
    assert (found.episodes, found.torn) == (whole - 1, True)


def test_a_run_under_way_is_named_as_such(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=2)
    with (folder / "episodes.jsonl").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as the evaluation does
        state = Run.read(folder).state
    assert state is not None
    assert state.startswith("The run is still under way: 8 of 12 episodes")


def test_a_stopped_run_says_how_to_go_on(tmp_path: Path) -> None:
    state = Run.read(write_run(tmp_path / "run", finished=2)).state
    assert state is not None
    assert "stopped after 8 of 12 episodes" in state
    assert "same `vlapack eval` command" in state


def stopped_early(folder: Path, *, summarized: int) -> Path:
    """Write a run of 200 episodes of which 180 were played, and a summary of so many of them that it stopped early."""
    write_run(folder, float_wins=[True] * 100, packed_wins=[True] * 100, finished=80)
    sequential = {
        "of": "difference",
        "half_width_wanted": 0.03,
        "interval95": [-0.02, 0.03],
        "cases": summarized,
        "planned_cases": 100,
        "reached": True,
    }
    summary = {"episodes": summarized, "versions": {}, "verdict": "no_drop_measured", "sequential": sequential}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_run_that_stopped_early_as_it_was_asked_to_is_finished(tmp_path: Path) -> None:
    run = Run.read(stopped_early(tmp_path / "run", summarized=80))
    found = answer(run.comparisons[0])
    assert (run.state, found.short) == (None, "Yes")
    assert any("stopped after 80 of 100 cases" in line for line in found.details)


def test_a_run_that_went_on_after_stopping_early_is_not_finished(tmp_path: Path) -> None:
    run = Run.read(stopped_early(tmp_path / "run", summarized=60))
    assert (run.state is None, answer(run.comparisons[0]).short) == (False, "Not yet")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 3 is damaged"),
        ("[1, 2]", "line 3 is damaged"),
        ('{"role": "policy"}', "line 3 is damaged: suite: Field required"),
        ("\xff", "line 3 is damaged"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    folder = write_run(tmp_path / "run")
    lines = lines_of(folder)
    lines[2] = line + "\n"
    (folder / "episodes.jsonl").write_bytes("".join(lines).encode("latin-1"))
    with pytest.raises(InputError, match=words):
        Run.read(folder)


def test_a_number_of_the_wrong_kind_is_damage(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    lines = lines_of(folder)
    lines[0] = json.dumps({**json.loads(lines[0]), "steps": "30"}) + "\n"
    (folder / "episodes.jsonl").write_text("".join(lines))
    with pytest.raises(InputError, match="line 1 is damaged: steps"):
        Run.read(folder)


def test_episodes_of_another_plan_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    lines = lines_of(folder)
    lines[0] = json.dumps({**json.loads(lines[0]), "init_state": 77}) + "\n"
    (folder / "episodes.jsonl").write_text("".join(lines))
    with pytest.raises(InputError, match=r"init state 77 is not in plan\.json"):
        Run.read(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ('{"type": "other"}', "'other' of version None"),
        ('{"type": "vlapack.evaluation", "version": 2}', "of version 2"),
        ('{"type": "vlapack.evaluation", "version": 1, "tasks": "all"}', "is damaged: tasks"),
        ('{"type": "vlapack.evaluation", "version": 1, "tasks": [["a", 0]], "init_states": []}', "no init state"),
    ],
)
def test_a_plan_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "plan.json").write_text(text)
    with pytest.raises(InputError, match=words):
        Run.read(folder)


@pytest.mark.parametrize("missing", ["plan.json", "episodes.jsonl"])
def test_half_a_run_is_named(tmp_path: Path, missing: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / missing).unlink()
    with pytest.raises(InputError, match=f"but no {missing}"):
        Run.read(folder)


SOUND = {"versions": {}, "verdict": "drop"}


@pytest.mark.parametrize(
    "found", [{}, SOUND | {"noise_floor": {"episodes": "many"}}, SOUND | {"sequential": {"reached": "yes"}}]
)
def test_a_damaged_summary_is_not_believed(tmp_path: Path, found: dict[str, object]) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match="is damaged; remove it"):
        Run.read(folder)


def test_the_newest_record_of_a_case_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", packed_wins=(None, *PACKED[1:]))
    [before] = Run.read(folder).comparisons
    assert before.summary["verdict"] == "errors"
    first = json.loads(lines_of(folder)[len(FLOAT)])
    with (folder / "episodes.jsonl").open("a") as file:
        file.write(json.dumps({**first, "success": True, "steps": 30, "error": None}) + "\n")
    [after] = Run.read(folder).comparisons
    assert after.summary["errors"] == 0


def test_the_worst_disagreements_come_first(tmp_path: Path) -> None:
    [comparison] = Run.read(write_run(tmp_path / "run")).comparisons
    outcomes = [pair.outcome for pair in comparison.disagreements()]
    assert outcomes == ["only float", "only float", "only packed", "both", "both", "both"]
