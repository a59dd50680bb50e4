"""`vlapack watch` from its command line to its exit code."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_runs import write_run

from vlapack.cli import main
from vlapack.commands import watch as command
from vlapack.watch import loop


def test_a_complete_run_is_shown_with_its_verdict_and_watching_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(write_run(tmp_path / "run"))]) == 0
    out = capsys.readouterr().out
    assert "complete: 12 of 12 episodes" in out
    assert "packs/tiny-full: inconclusive: too few episodes" in out
    assert "--trials" not in out or "`" not in out


def test_once_is_the_table_and_json_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write_run(tmp_path / "run", finished=2))
    assert main(["watch", run, "--once"]) == 0
    assert "stopped after 8 of 12 episodes" in capsys.readouterr().out
    assert main(["watch", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], "absent is not there yet"),
        (["absent"], "or --wait to wait for it"),
        (["RUN/plan.json"], "plan.json is no folder"),
        (["RUN", "--port", "9000"], "--port is the page's: add --page"),
        (["RUN", "--host", "0.0.0.0"], "--host is the page's: add --page"),
        (["RUN", "pack"], "pack would be shown on the page only"),
        (["RUN", "--page", "--once"], "give one of them"),
        (["RUN", "--page", "--port", "70000"], "--port 70000: give 0 to 65535"),
        (["RUN", "RUN", "--page"], "is a second run"),
        (["RUN", "nothing", "--page"], "there is no 'nothing'"),
    ],
)
def test_what_cannot_be_used_is_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    run = str(write_run(tmp_path / "run"))
    assert main(["watch", *(word.replace("RUN", run) for word in arguments)]) == 2
    assert words in capsys.readouterr().err


def test_a_port_in_use_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write_run(tmp_path / "run"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["watch", run, "--page", "--port", port]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error == [
        f"error: cannot listen on 127.0.0.1:{port}: Address already in use; --port 0 takes any that is free"
    ]


def test_ctrl_c_ends_watching_with_the_last_table_and_exit_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "watch", interrupt)
    assert main(["watch", str(write_run(tmp_path / "run", finished=2))]) == 0
    shown = capsys.readouterr()
    assert "stopped after 8 of 12 episodes" in shown.out
    assert "interrupted" not in shown.err


def test_the_table_needs_no_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=2)
    code = f"""
import sys
from vlapack.cli import main
main(["watch", {str(run)!r}, "--once"])
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Children get the signal also where a shell has background jobs, and so these tests, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_reader_of_the_log_sees_lines_and_a_signal_ends_it(tmp_path: Path, number: int) -> None:
    run = write_run(tmp_path / "run", finished=2)
    child = [sys.executable, "-m", "vlapack.cli", "watch", str(run)]
    with subprocess.Popen(child, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "stopped after 8 of 12" in process.stderr.readline()
        time.sleep(0.2)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "8 of 12 episodes" in out


def test_help_names_the_default_port() -> None:
    assert f"Default: {command.PORT}" in (command.watch.__doc__ or "")
