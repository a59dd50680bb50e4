"""Which implementation runs the ops: named in the output of every command, chosen by `VLAPACK_ENGINE`."""

from __future__ import annotations

import os

from vlapack.errors import InputError

VARIABLE = "VLAPACK_ENGINE"
ENGINES = ("reference",)


def active() -> str:
    """Return the name of the engine in use: `VLAPACK_ENGINE`, or `reference` where that is unset or empty.

    Raises:
        InputError: The variable names an engine that this installation does not have.
    """
    name = os.environ.get(VARIABLE) or "reference"
    if name not in ENGINES:
        raise InputError(f"{VARIABLE}={name}: no such engine here; available: {', '.join(ENGINES)} (or unset it)")
    return name
