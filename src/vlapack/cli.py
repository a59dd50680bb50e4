"""The `vlapack` command: a table of contents. Each subcommand is a function in `commands/`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from vlapack import __version__
from vlapack.console import exit_code, say
from vlapack.files import from_home

COMMANDS = {
    "inspect": "which layers a recipe quantizes, and the bytes before and after; loads no weights",
    "quantize": "checkpoint + recipe + observations -> one self-contained 4-bit pack folder",
    "tune": "the best bits per layer under an error or a budget, measured on the action chunk -> a recipe file",
    "verify": "check every checksum and the format of a pack",
    "eval": "a policy and its float parent on the same LIBERO episodes, with intervals and a paired test",
    "compare": "a pack's actions and its float parent's on recorded observations; no simulator needed",
    "report": "one HTML page that answers: may I ship this pack? From what eval, compare and bench wrote",
    "serve": "a policy behind openpi's websocket protocol, for robots and simulators on other machines",
    "bench": "milliseconds per action chunk, part by part, and bytes in memory, against a baseline and the CPU's floor",
    "doctor": "is everything there, and if not, what to type",
    "clean": "list or remove what interrupted runs left behind",
}

EPILOG = "Exit codes: 0 good, 1 the work failed, 2 the input cannot be used. `vlapack COMMAND --help` explains each."


def _load(name: str) -> Callable[..., int]:
    command: Callable[..., int] = getattr(importlib.import_module(f"vlapack.commands.{name}"), name)
    return command


def _spell(command: Callable[..., int], text: str) -> str:
    from vlapack.commands.spelling import with_flags

    return with_flags(command, text)


def _path_from_home(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Read every path with `~` as the home folder, which shells leave as it is behind an equals sign or in quotes."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: from_home(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def _usage() -> str:
    rows = "\n".join(f"  {name:10s} {text}" for name, text in COMMANDS.items())
    return f"usage: vlapack COMMAND [...]\n\nvlapack {__version__}\n\n{rows}\n\n{EPILOG}\n"


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; return the exit code."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0 if args else 2
    if args[0] == "--version":
        sys.stdout.write(f"{__version__}\n")
        return 0
    if args[0] not in COMMANDS:
        say(f"error: there is no command {args[0]!r}; commands: {', '.join(COMMANDS)}")
        return 2
    name, *words = args
    registry = ConstructorRegistry()
    registry.primitive_rule(_path_from_home)
    return exit_code(
        lambda: int(tyro.cli(_load(name), prog=f"vlapack {name}", args=words, registry=registry)),
        lambda text: _spell(_load(name), text),
    )


if __name__ == "__main__":
    sys.exit(main())
