"""Whether a command compiles its policy.

Compiling takes minutes the first time and pays off over many chunks only, so it is asked for (`compile`). The three
variables by which the scripts switch it off are the guide's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from vlapack.console import say
from vlapack.errors import InputError

SWITCHES = ("OPENPI_DISABLE_TORCH_COMPILE", "TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE")
ON, OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
COMPILERS = ("g++", "clang++", "c++")


def compile_wanted(asked: bool, environ: Mapping[str, str] | None = None) -> bool:
    """Whether to compile: if it was asked for and no variable forbids it, which is said.

    Raises:
        InputError: a variable that says neither yes nor no, or no C++ compiler, which torch needs for it on a CPU.
    """
    variables = os.environ if environ is None else environ
    forbidding = [name for name in SWITCHES if _is_on(name, variables.get(name, ""))]
    if not asked:
        return False
    if forbidding:
        say(
            f"not compiled: {' and '.join(forbidding)} {'says' if len(forbidding) == 1 else 'say'} so; "
            f"set {'it' if len(forbidding) == 1 else 'them'} to 0 to compile"
        )
        return False
    if not any(shutil.which(name) for name in (variables.get("CXX") or "g++", *COMPILERS)):
        raise InputError(
            f"`compile=True`: torch.compile needs a C++ compiler, and there is none of {', '.join(COMPILERS)} here; "
            "install one (Debian or Ubuntu: apt-get install -y g++), or leave `compile` out"
        )
    return True


def _is_on(name: str, value: str) -> bool:
    if value.lower() not in ON + OFF:
        raise InputError(f"{name}={value}: say {', '.join(ON)} (not compiled) or {', '.join(OFF[1:])}, or unset it")
    return value.lower() in ON
