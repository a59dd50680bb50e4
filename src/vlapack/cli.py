"""The `vlapack` command: a table of contents. Each subcommand is a function in `commands/`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import tyro

from vlapack import __version__
from vlapack.commands import help as shown
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, say

COMMANDS = {
    "inspect": "which layers a recipe quantizes, and the bytes before and after",
    "quantize": "checkpoint + recipe + observations -> a 4-bit pack",
    "tune": "the best bits per layer for an error or a budget -> a recipe",
    "verify": "check every checksum and the format of a pack",
    "eval": "a policy and its float parent on the same LIBERO episodes",
    "sweep": "many policies and recipes on the same episodes, from one file",
    "merge": "combine the shards of an evaluation or a sweep",
    "compare": "a pack's actions against its float parent's, without a simulator",
    "diagnose": "why a pack acts differently from its parent, and what helps",
    "watch": "a run while it is played: progress, time left, failures",
    "report": "one page that answers: may I ship this pack?",
    "serve": "a policy behind openpi's websocket protocol",
    "bench": "milliseconds per action chunk, part by part, and memory",
    "doctor": "what is missing or wrong here, and how to fix it",
    "clean": "list or remove what interrupted runs left behind",
}

SHELLS = ("bash", "zsh", "fish")

EPILOG = """`vlapack COMMAND --help` explains a command. Exit codes: 0 success, 1 the
work failed, 2 bad input. `vlapack --print-completion bash` (or zsh, fish)
prints a script that completes commands and flags (docs/quickstart.md)."""


def _load(name: str) -> Callable[..., int]:
    command: Callable[..., int] = getattr(importlib.import_module(f"vlapack.commands.{name}"), name)
    return command


def _usage() -> str:
    rows = "\n".join(f"  {name:10s} {text}" for name, text in COMMANDS.items())
    return f"usage: vlapack COMMAND [...]\n\nvlapack {__version__}\n\n{rows}\n\n{EPILOG}\n"


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; return the exit code."""
    args = sys.argv[1:] if argv is None else argv
    name, *words = args or ["--help"]
    if name not in COMMANDS:
        return exit_code(lambda: _without_command(name, words, asked=bool(args)))
    return exit_code(lambda: _run(name, words), lambda text: with_flags(_load(name), text))


def _run(name: str, words: list[str]) -> int:
    """Run a subcommand; its help begins with what its docstring says."""
    command = _load(name)
    if "-h" in words or "--help" in words:
        sys.stdout.write(f"{shown.description(command)}\n\n")
    return int(tyro.cli(command, prog=f"vlapack {name}", description="", args=words, registry=shown.registry()))


def _without_command(word: str, words: list[str], *, asked: bool) -> int:
    """Answer what is no subcommand."""
    if word in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0 if asked else 2
    if word == "--version":
        sys.stdout.write(f"{__version__}\n")
        return 0
    if word == "--print-completion":
        if words not in [[shell] for shell in SHELLS]:
            say(f"error: {word} takes one of {', '.join(SHELLS)}, as in `vlapack {word} bash`")
            return 2
        commands = {name: _load(name) for name in COMMANDS}
        arguments = ["--tyro-print-completion", *words]
        registry = shown.registry()
        return int(tyro.extras.subcommand_cli_from_dict(commands, prog="vlapack", args=arguments, registry=registry))
    say(f"error: there is no command {word!r}; commands: {', '.join(COMMANDS)}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
