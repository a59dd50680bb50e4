"""The guide's variables, `OPENPI_DUQUANT_*`, as values of a recipe.

A value that does not parse is an error, and so is a variable of this prefix that nobody reads: neither becomes a
silent default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlapack.errors import InputError
from vlapack.files import from_home
from vlapack.recipe.choice import Choice
from vlapack.recipe.presets import GUIDE_SCOPES
from vlapack.recipe.recipe import Recipe
from vlapack.recipe.rules import nearest

PREFIX = "OPENPI_DUQUANT_"

GUIDE = Recipe(
    method="guide",
    rotation="svd",
    block=16,
    shared_block=False,
    permute=True,
    row_rot="restore",
    smooth=0.15,
    rounding="rtn",
    act_scale="static",
    act_percentile=99.9,
    calib_steps=32,
    fold=False,
)
"""The guide's defaults; its default scope `policy.dit.` exists in no model, so a scope must be given."""


@dataclass(frozen=True)
class Options:
    """The variables that say what a command does, not what a pack contains."""

    packdir: Path | None = None
    """Where the pack goes (`PACKDIR`)."""
    debug: bool = False
    """One line per layer (`DEBUG`)."""
    dryrun: bool = False
    """List the layers and stop (`DRYRUN`)."""


def text(value: str) -> str:
    """Take a string as it is; an empty one is no value."""
    if not value:
        raise ValueError("it is empty")
    return value


def integer(value: str) -> int:
    """Parse a whole number."""
    return int(value)


def number(value: str) -> float:
    """Parse a finite number (an `inf` or `nan` fails the recipe's own rule)."""
    return float(value)


def switch(value: str) -> bool:
    """Parse `0` or `1`."""
    if value not in ("0", "1"):
        raise ValueError("it must be 0 or 1")
    return value == "1"


def names(value: str) -> tuple[str, ...]:
    """Parse a comma list; empty entries are dropped."""
    return tuple(name.strip() for name in value.split(",") if name.strip())


def overrides(value: str) -> tuple[tuple[str, int | Choice], ...]:
    """Parse `pattern:choice,…`; the last colon of an entry separates, so a pattern may hold colons but no comma."""
    pairs: list[tuple[str, int | Choice]] = []
    for entry in names(value):
        pattern, _, chosen = entry.rpartition(":")
        if not pattern:
            raise ValueError(f"{entry!r} is not of the form name:bits")
        pairs.append((pattern, int(chosen) if chosen.isdigit() else Choice.from_text(chosen)))
    return tuple(pairs)


@dataclass(frozen=True)
class Variable:
    """One variable: which field (of `Recipe`, else of `Options`) it sets, how it is read, and its rule in words."""

    field: str
    parse: Callable[[str], Any]
    rule: str


VARIABLES: dict[str, Variable] = {
    "SCOPE": Variable("scope", text, "the prefix of the layers' names"),
    "INCLUDE": Variable("include", text, "a regular expression"),
    "EXCLUDE": Variable("exclude", lambda value: value or None, "a regular expression"),
    "LAYERS": Variable("layers", names, "exact names, separated by commas"),
    "WBITS": Variable("overrides", overrides, "name:bits,name:bits,… with bits 4, 8 or 16, or 4g32, 4a16, 4g32a8"),
    "WBITS_DEFAULT": Variable("weight_bits", integer, "4, 8 or 16"),
    "ABITS": Variable("act_bits", integer, "4, 8 or 16"),
    "BLOCK": Variable("block", integer, "a power of two, 4 or more"),
    "BLOCK_OUT": Variable("block_out", integer, "a power of two, 4 or more"),
    "PERMUTE": Variable("permute", switch, "0 or 1"),
    "ROW_ROT": Variable("row_rot", text, "0 or restore"),
    "ACT_PCT": Variable("act_percentile", number, "a percentile in (0, 100]"),
    "CALIB_STEPS": Variable("calib_steps", integer, "a number of observations, 1 or more"),
    "LS": Variable("smooth", number, "λ in [0, 1]"),
}
"""What makes a recipe, by the variable's name without its prefix."""

OPTIONS: dict[str, Variable] = {
    "PACKDIR": Variable("packdir", lambda value: from_home(value) if value else None, "a folder"),
    "DEBUG": Variable("debug", switch, "0 or 1"),
    "DRYRUN": Variable("dryrun", switch, "0 or 1"),
}


def variables_set(environ: Mapping[str, str]) -> list[str]:
    """Return the recipe's variables that `environ` sets, with their prefix.

    Raises:
        InputError: A variable has the prefix and a name that nobody reads.
    """
    known = [PREFIX + name for name in (*VARIABLES, *OPTIONS)]
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            raise InputError(f"{name} is not a variable of vlapack{nearest(name, known)}; they are: {', '.join(known)}")
    return [PREFIX + name for name in VARIABLES if PREFIX + name in environ]


def options_from_environment(environ: Mapping[str, str]) -> Options:
    """Read `PACKDIR`, `DEBUG` and `DRYRUN`.

    Raises:
        InputError: A value does not parse.
    """
    found = {name: variable for name, variable in OPTIONS.items() if PREFIX + name in environ}
    return Options(**{variable.field: _parse(name, variable, environ) for name, variable in found.items()})


def fields_from_environment(
    environ: Mapping[str, str], base: Recipe | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields that the variables set, and where each value comes from.

    Args:
        environ: The process's environment.
        base: The preset on which they are put; None: they start from the guide's defaults (`GUIDE`).

    Returns:
        Field → value, and field → source; what a variable implies is said in its source. `ACT_PCT` selects static
        activation scales; `WBITS` goes before the preset's own overrides. On the guide's defaults `ROW_ROT=0` is the
        guide's "rotation off", so it also drops the input rotation.

    Raises:
        InputError: A value does not parse, or there is neither preset nor `SCOPE`.
    """
    found = variables_set(environ)
    if base is None and PREFIX + "SCOPE" not in found:
        scopes = ", ".join(f"{scope} ({place})" for place, scope in GUIDE_SCOPES.items())
        raise InputError(
            f"{', '.join(found)} set without {PREFIX}SCOPE, and the guide's default scope 'policy.dit.' matches "
            f"nothing in π0: set it to one of {scopes}; or name a `preset`"
        )
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for variable in found:
        name = variable.removeprefix(PREFIX)
        field = VARIABLES[name].field
        values[field] = _parse(name, VARIABLES[name], environ)
        sources[field] = variable
    if base is not None and "overrides" in values:
        values["overrides"] += base.overrides
    if "act_percentile" in values:
        values["act_scale"], sources["act_scale"] = "static", f"{PREFIX}ACT_PCT selects static scales"
    if base is None and values.get("row_rot") == "0":
        values["rotation"], sources["rotation"] = "none", f"{PREFIX}ROW_ROT=0 is the guide's 'rotation off'"
    return values, sources


def _parse(name: str, variable: Variable, environ: Mapping[str, str]) -> Any:
    value = environ[PREFIX + name]
    try:
        return variable.parse(value)
    except ValueError as error:
        raise InputError(f"{PREFIX}{name} = {value!r} does not parse ({error}): it must be {variable.rule}") from error
