"""The command line's promises: exit codes, one document on stdout, help without torch, a reader that may leave."""

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table

from vlapack import cli, console
from vlapack.errors import InputError, WorkError
from vlapack.progress import progress


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("argv", [[], ["quantise"]])
def test_no_such_command_is_exit_2(argv):
    assert cli.main(argv) == 2


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_commands_help_teaches_and_ends_with_0(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert "Args:" not in capsys.readouterr().out, "the docstring was not parsed"


def test_help_loads_no_torch():
    code = "import sys; from vlapack import cli; cli.main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("block is 3"), 2, "error: block is 3"),
        (WorkError("disk full"), 1, "failed: disk full"),
        (KeyboardInterrupt(), 130, "continues"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(error, code, words, capsys):
    def command() -> int:
        raise error

    assert console.exit_code(command) == code
    assert words in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        console.exit_code(lambda: 1 // 0)


def test_json_is_the_only_thing_on_stdout(capsys):
    console.say("loading")
    with progress("work", 2) as advance:
        advance()
        advance("done")
    console.emit_json({"π": 3.14})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"π": 3.14}
    assert "2/2 done" in shown.err


def test_json_refuses_what_json_cannot_say():
    with pytest.raises(ValueError, match="JSON"):
        console.emit_json({"p": float("nan")})


MANY_LINES = """
import sys
from vlapack.console import emit_table, emit_text, exit_code
from rich.table import Table
def report():
    table = Table("n")
    for number in range(100):
        table.add_row(str(number))
    {begin}
    return 0
sys.exit(exit_code(report))
"""


@pytest.mark.parametrize(
    ("begin", "code"),
    [
        ("emit_table(table)", 141),
        ("[emit_text(str(number)) for number in range(100)]", 141),
        ("[print(number) for number in range(100)]", 141),
        ("raise SystemExit(print('x' * 100_000))", 141),  # as tyro ends after its help
        ("r, w = __import__('os').pipe(); __import__('os').close(r); __import__('os').write(w, b'x')", 1),  # not stdout
    ],
)
def test_a_reader_that_leaves_ends_a_command_without_a_word(begin: str, code: int) -> None:
    reader, writer = os.pipe()
    child = [sys.executable, "-c", MANY_LINES.format(begin=begin)]
    with subprocess.Popen(child, stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        if code == 141:
            os.close(reader)
        complaint = process.communicate()[1]
    assert process.returncode == code
    assert ("BrokenPipeError" in complaint) == (code == 1)
    assert code == 1 or complaint == ""


def test_messages_wrap_at_words_on_a_terminal_and_nowhere_else(monkeypatch):
    long_path = "/" + "folder/" * 20
    message = f"no observations are given: calibrating on those in {long_path} which come with the package and fit it"
    for terminal in (True, False):
        console_ = Console(file=io.StringIO(), force_terminal=terminal, width=60, color_system=None)
        monkeypatch.setattr(console, "stderr", console_)
        console.say(message)
        lines = console_.file.getvalue().splitlines()
        assert " ".join(lines) == message
        assert long_path in lines or not terminal
        assert len(lines) == (3 if terminal else 1)


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_too_narrow_for_a_table_shows_every_number(width, monkeypatch):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(console, "stdout", terminal)
    table = Table("layer", title="twelve columns", caption="said once")
    for number in range(12):
        table.add_column(f"column {number}", justify="right", no_wrap=True)
    for name in ("a.very.long.dotted.name.of.a.layer" * 3, "short"):
        table.add_row(name, *(f"{number}234.56" for number in range(12)))
    console.emit_table(table)
    shown = terminal.file.getvalue()
    assert max(map(len, shown.splitlines())) <= width
    assert all(f" {number}234.56 " in shown for number in range(12))
    assert shown.count("said once") == shown.count("twelve columns") == 1
    assert "…" not in shown
