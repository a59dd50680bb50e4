"""Which implementation runs the ops: named in the output of every command, chosen by `VLAPACK_ENGINE`.

`cpu` is the compiled engine (csrc/): integer instructions, the best set of them that the CPU has, or that `VLAPACK_ISA`
names. `reference` is torch alone, on any device: it defines the results, and is several times slower.
"""

from __future__ import annotations

import os
from functools import cache

from vlapack.console import say
from vlapack.errors import InputError, install

try:
    from vlapack import _kernels
except ImportError as error:
    _kernels = None  # type: ignore[assignment]
    _why_not = str(error)

kernels = _kernels
"""The compiled module, or None."""
ENGINE_VARIABLE = "VLAPACK_ENGINE"
ISA_VARIABLE = "VLAPACK_ISA"
REMEDY = f"install a C++17 compiler and run {install(again=True)}"


def available() -> tuple[str, ...]:
    """The engines of this installation, the one that is taken by itself first."""
    return ("reference",) if kernels is None else ("cpu", "reference")


def active() -> str:
    """Return the name of the engine in use: `VLAPACK_ENGINE`, or where that is unset or empty the best there is.

    Raises:
        InputError: The variable names an engine that this installation does not have, or `VLAPACK_ISA` instructions
            that this CPU does not have.
    """
    name = os.environ.get(ENGINE_VARIABLE)
    if name and name not in available():
        remedy = f"; for cpu, {REMEDY}" if name == "cpu" else ""
        raise InputError(
            f"{ENGINE_VARIABLE}={name}: no such engine here; available: {', '.join(available())} (or unset it){remedy}"
        )
    if name == "reference":
        return name
    return _start()


def described() -> str:
    """The engine in use and, in brackets, its instruction set, for logs and results: `cpu (avx512vnni)`."""
    name = active()
    return f"{name} ({kernels.isa()})" if name == "cpu" else name


@cache
def _start() -> str:
    """Choose the instruction set, once; or say, once, what it costs that the compiled engine is missing."""
    if kernels is None:
        say(f"engine reference: slow, for the compiled engine is not installed ({_why_not}); {REMEDY}")
        return "reference"
    if isa := os.environ.get(ISA_VARIABLE):
        try:
            kernels.choose(isa)
        except ValueError as error:
            raise InputError(f"{ISA_VARIABLE}={error}; available: {', '.join(kernels.available())}") from error
    return "cpu"
