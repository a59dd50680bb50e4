"""A command's spelling of settings: where the library says `smooth=0`, its user reads --smooth 0.

The library names settings in backticks, as Python writes them (`vlapack.errors`). A command rewrites those that it
takes as flags, and leaves every other name as it is. Which ones it takes follows from its signature.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

SETTING = re.compile(r"`(?P<field>[a-z][a-z0-9_]*)(?:=(?P<value>[^`]+))?`")

RENAMED: Mapping[str, tuple[str, ...]] = {
    "layers": ("only_layers",),
    "overrides": ("weight_overrides",),
    "count": ("calib_steps", "observations"),
    "trials": ("episodes",),
}
"""A name in the library → the parameters of commands that mean the same. The first that the command has goes before a
parameter of the name itself: the `layers` of `inspect` are rows of a table, not a field of the recipe."""

# How tyro marks what is given without a flag, and a dataclass whose fields are flags without its name before them.
POSITIONAL = get_args(tyro.conf.Positional[int])[1]
FLAT = get_args(tyro.conf.OmitArgPrefixes[int])[1]


@dataclass(frozen=True)
class Flag:
    """How a command takes one setting.

    Attributes:
        name: with its dashes
        switch: whether it takes no value
    """

    name: str
    switch: bool

    def __call__(self, value: str | None) -> str:
        """Return what to type for a value, which is Python or a plain placeholder; None names the flag alone."""
        if value is None or (self.switch and value == "True"):
            return self.name
        if self.switch and value == "False":
            return f"no {self.name}"
        return f"{self.name} {_word(value)}"

    def typed(self, value: Any) -> str:
        """Return what to type for a value itself."""
        if self.switch:
            return self.name if value else self.name.replace("--", "--no-", 1)
        return f"{self.name} {shlex.quote(str(value))}"


def with_flags(command: Callable[..., Any], text: str) -> str:
    """Return a text with every setting that the command takes as its flag.

    Args:
        command: the function that tyro makes a command line of
        text: what the library says, such as "GPTQ needs calibration data: give `calib=DIR`, or `rounding='rtn'`"
    """

    def spell(found: re.Match[str]) -> str:
        flags = flags_of(command)
        names = (*RENAMED.get(found["field"], ()), found["field"])
        flag = next((flags[name] for name in names if name in flags), None)
        return found[0] if flag is None else flag(found["value"])

    return SETTING.sub(spell, text)


def line(command: Callable[..., Any], words: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Return what to type into a shell to run a command.

    Args:
        command: the function that tyro makes a command line of
        words: what it takes without a flag
        settings: its other parameters and their values; those that are None are left out
    """
    flags = flags_of(command)
    typed = [flags[name].typed(value) for name, value in settings.items() if value is not None]
    return " ".join([f"vlapack {command.__name__}", *map(shlex.quote, words), *typed])


@cache
def flags_of(command: Callable[..., Any]) -> Mapping[str, Flag]:
    """Return the settings that a command takes, by their names in Python, those of nested dataclasses included."""
    hints = get_type_hints(command, include_extras=True)
    return dict(_flags({name: hints[name] for name in inspect.signature(command).parameters}, prefix=""))


def _flags(hints: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Flag]]:
    for name, hint in hints.items():
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if POSITIONAL in marks:
            continue
        # tyro.conf.arg(name=…); an empty one drops the name.
        given = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), name)
        shown = f"{prefix}{given.replace('_', '-')}"
        if dataclasses.is_dataclass(kind):
            fields = {
                field.name: get_type_hints(kind, include_extras=True)[field.name] for field in dataclasses.fields(kind)
            }
            yield from _flags(fields, prefix if FLAT in marks or not given else f"{shown}.")
        else:
            yield name, Flag(f"--{shown}", switch=kind is bool)


def _word(value: str) -> str:
    """Return a value as a shell takes it: a string without Python's quotes, anything else as it stands."""
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a placeholder
        return value
    return shlex.quote(literal) if isinstance(literal, str) else value
