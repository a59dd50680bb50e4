"""The command line's promises: exit codes, one document on stdout, help without torch."""

import json
import subprocess
import sys

import pytest

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
