"""Help at 80 columns: values with a meaning, defaults that say something, and no line broken in a word."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from vlapack import cli
from vlapack.commands.help import VALUES
from vlapack.commands.spelling import flags_of

OUR_WORDS = re.compile(r"[A-Z]+(:[A-Z]+)?(,…)?|\{.+\}")


def shown(command: str, capfd: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    return capfd.readouterr().out


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_eighty_columns_and_speaks_of_no_python_types(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text = shown(command, capfd)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "None" not in text
    values = re.findall(r"^│ --[a-z][\w.-]* (\S+)", text, re.MULTILINE)
    assert [value for value in values if not OUR_WORDS.fullmatch(value) or value in ("STR", "INT", "PATH")] == []


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_what_is_printed_as_an_example_can_be_pasted(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    examples = shown(command, capfd).partition("usage:")[0].replace(" \\\n", " ")
    for line in examples.splitlines():
        if line.startswith("    ") and not line.startswith("    #"):
            assert line.split()[:2] == ["vlapack", command]
            assert "  (" not in line


def test_flags_that_many_commands_share_come_last(capfd: pytest.CaptureFixture[str]) -> None:
    titles = re.findall(r"^╭─ (.+?) ─", shown("quantize", capfd), re.MULTILINE)
    assert titles == [
        "positional arguments",
        "options",
        "measuring options",
        "recipe options",
        "checkpoint options",
    ]


def test_the_list_of_commands_fits_a_small_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80


def test_a_switch_that_is_on_can_be_turned_off_and_a_home_is_found(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "--videos, --no-videos" in shown("eval", capfd)
    assert cli.main(["verify", "~/absent"]) == 2
    assert str(tmp_path) in capfd.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_completion_knows_the_commands_and_their_flags(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"0|^$"):
        cli.main(["--print-completion", shell])
    script = capfd.readouterr().out
    assert "quantize" in script
    assert "max-error" in script


def test_an_unknown_shell_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--print-completion", "ksh"]) == 2
    assert "bash, zsh, fish" in capfd.readouterr().err


def test_every_value_that_has_a_name_is_taken_by_a_command() -> None:
    commands = [cli._load(name) for name in cli.COMMANDS]
    known = {name for command in commands for name in (*inspect.signature(command).parameters, *flags_of(command))}
    assert VALUES.keys() - known == set()
