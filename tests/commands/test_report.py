"""`vlapack report` from its command line to its exit code."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
from extras import needs
from made_runs import write_run

from vlapack.cli import main
from vlapack.evaluate.clock import PlanClock

needs("matplotlib", "jinja2", remedy="pip install '.[report]'")


def test_the_answer_and_the_page_are_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(write_run(tmp_path / "run")), "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("packs/tiny-full: Not yet. Too few episodes")
    assert said[-1] == str(out)
    assert f"--out {out}" in out.read_text(encoding="utf-8")


def test_json_is_one_document_with_every_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    runs = [str(write_run(tmp_path / name, name=name)) for name in ("one", "two")]
    assert main(["report", *runs, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bytes"] == out.stat().st_size
    assert [(line["policy"], line["short"]) for line in document["answers"]] == [("one", "Not yet"), ("two", "Not yet")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "there is no 'nothing'"),
        ([], "nothing to report on"),
        (["RUN", "--video-mb", "-1"], "--video-mb -1: give 0 to 2000"),
        (["RUN", "--video-mb", "nan"], "--video-mb nan: give 0 to 2000"),
        (["RUN", "--data", "observations"], "--data observations shows the outliers of a pack"),
    ],
)
def test_what_cannot_be_used_is_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    run = str(write_run(tmp_path / "run"))
    given = [run if word == "RUN" else word for word in arguments]
    assert main(["report", *given, "--out", str(tmp_path / "report.html")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("out", "words"), [(".", "is a folder; give the file"), ("no/report.html", "there is no folder")]
)
def test_a_place_that_cannot_be_written_is_named_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, words: str
) -> None:
    run = str(write_run(tmp_path / "run"))
    assert main(["report", run, "--out", str(tmp_path / out)]) == 2
    assert words in capsys.readouterr().err


def test_a_damaged_run_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    (run / "episodes.jsonl").write_text("{}\n")
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 2
    assert "episodes.jsonl line 1 is damaged" in capsys.readouterr().err


def test_the_page_has_the_command_that_plays_the_same_episodes(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run", name="my packs/full"), tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    wanted = (
        "vlapack eval 'my packs/full' --baseline tiny-libero --suite libero_spatial --task-ids 0-1 --init-states 0-2 "
        "--seed 7 --replan 5"
    )
    assert wanted in html.unescape(out.read_text(encoding="utf-8"))


def test_the_page_says_how_time_went_on_and_how_to_have_it_again(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run", clock=PlanClock("async", 2)), tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    page = html.unescape(out.read_text(encoding="utf-8"))
    assert "Clock: async, 2 control steps late (100 ms at 20 Hz). policy held still for" in page
    assert "--mode async --latency 2steps --control-hz 20.0" in page


def test_the_page_says_that_the_target_moved_and_how_to_have_it_again(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run", drift=0.05), tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    page = html.unescape(out.read_text(encoding="utf-8"))
    assert "Moving target: the object to pick up drifts at 0.05 m/s." in page
    assert "--drift 0.05" in page
