"""How a command spells the settings that the library names as Python does."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from vlapack import cli, console
from vlapack.commands.spelling import flags_of, line, with_flags
from vlapack.errors import InputError, WorkError


@dataclass(frozen=True)
class Shared:
    """Parameters that several commands have."""

    norm_stats: Path | None = None
    quiet: bool = False


def asked(
    target: tyro.conf.Positional[str],
    *,
    out: Path,
    calib: Path | None = None,
    smooth: float = 0.0,
    rename_map: str | None = None,
    overwrite: bool = False,
    keep: bool = True,
) -> dict[str, object]:
    return locals()


def command(
    target: tyro.conf.Positional[str],
    *,
    calib: Path | None = None,
    weights_only: bool = False,
    atm: bool | None = None,
    smooth: float = 0.0,
    rename_map: str | None = None,
    only_layers: str | None = None,
    policy_dir: Annotated[str | None, tyro.conf.arg(name="policy.dir")] = None,
    flat: tyro.conf.OmitArgPrefixes[Shared] = Shared(),
) -> int:
    return 0


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("`smooth=0`", "--smooth 0"),
        ("`calib=DIR`", "--calib DIR"),
        ("`calib=FILE.json`", "--calib FILE.json"),
        ("`norm_stats`", "--norm-stats"),
        ("`rename_map='cam'`", "--rename-map cam"),
        ("""`rename_map='{"a b": "c"}'`""", """--rename-map '{"a b": "c"}'"""),
        ("`weights_only=True`", "--weights-only"),
        ("`weights_only=False`", "no --weights-only"),
        ("`quiet=True`", "--quiet"),
        ("`atm=False`", "--atm False"),
        ("`policy_dir=DIR`", "--policy.dir DIR"),
        ("`layers`", "--only-layers"),
        ("layer 3: no data: give `calib=DIR`, or `smooth=0`", "layer 3: no data: give --calib DIR, or --smooth 0"),
    ],
)
def test_a_setting_becomes_the_flag(text: str, spelled: str) -> None:
    assert with_flags(command, text) == spelled


@pytest.mark.parametrize(
    "text",
    [
        "`target=X`",  # given without a flag
        "`rounding='rtn'`",  # not this command's
        "smooth = 3 is too much",
        "`vlapack serve POLICY --record`",
        "`config.json` and `calib/index.json`",
        "`calib=",
        "`calib` is half `open",
    ],
)
def test_nothing_else_is_touched(text: str) -> None:
    assert with_flags(command, text) == text.replace("`calib`", "--calib")


def nested(args: Shared) -> int:
    return 0


def unnamed(args: Annotated[Shared, tyro.conf.arg(name="")]) -> int:
    return 0


def test_a_nested_dataclass_is_prefixed_as_tyro_does_unless_it_is_flat() -> None:
    assert with_flags(nested, "`norm_stats=PATH`, `quiet=False`") == "--args.norm-stats PATH, no --args.quiet"
    assert with_flags(unnamed, "`norm_stats=PATH`") == "--norm-stats PATH"


@pytest.mark.parametrize("function", [nested, unnamed, command])
def test_the_examples_above_are_what_tyro_reads(function: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(function, args=["--help"])  # type: ignore[call-overload]
    assert_flags_are(function, capsys.readouterr().out)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_flag_of_every_command_is_known_and_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    assert_flags_are(cli._load(name), capsys.readouterr().out)


def assert_flags_are(function: object, shown: str) -> None:
    """Hold the flags that are derived from a signature against the first column of tyro's help."""
    listed = re.findall(r"^[│ ] (--[a-z][\w.-]*)(, --\S+| \S+)?(?:  | *│| *$)", shown, re.MULTILINE)
    flags = flags_of(function).values()  # type: ignore[arg-type]
    assert {flag for flag, _ in listed} == {flag.name for flag in flags}
    switches = {flag for flag, value in listed if not value or value.startswith(",")}
    assert switches == {flag.name for flag in flags if flag.switch}


def test_layers_of_inspect_are_the_recipes_in_an_error() -> None:
    """`inspect --layers` lists rows; a message about the recipe's `layers` means the other flag."""
    assert with_flags(cli._load("inspect"), "`layers`") == "--only-layers"


@pytest.mark.parametrize(("command_name", "flag"), [("quantize", "--calib-steps 4"), ("tune", "--observations 4")])
def test_how_many_observations_is_a_flag_of_each_commands_own(command_name: str, flag: str) -> None:
    assert with_flags(cli._load(command_name), "`count=4`") == flag


def test_a_line_to_type_is_read_back_as_what_it_was_made_of() -> None:
    given = {"out": Path("my data/$x"), "smooth": 0.15, "rename_map": '{"a": "b"}', "overwrite": True, "keep": False}
    words = shlex.split(line(asked, ["it's mine"], {**given, "calib": None}))
    assert words[:2] == ["vlapack", "asked"]
    assert tyro.cli(asked, args=words[2:]) == {"target": "it's mine", "calib": None, **given}


@pytest.mark.parametrize("error", [InputError, WorkError])
def test_errors_and_advice_are_spelled_while_the_command_runs_and_not_after(
    error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> int:
        console.say("`smooth=0` helps")
        assert console.spelled("`atm`") == "--atm"
        raise error("give `calib=DIR`")

    assert console.exit_code(run, lambda text: with_flags(command, text)) in (1, 2)
    console.say("`smooth=0` helps")
    before, refused, after = capsys.readouterr().err.splitlines()
    assert before == "--smooth 0 helps"
    assert refused.endswith("give --calib DIR")
    assert after == "`smooth=0` helps"
