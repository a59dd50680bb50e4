"""Which implementation runs the ops on a device: named in the output of every command, chosen by `VLAPACK_ENGINE`.

`cpu` is the compiled engine (csrc/): integer instructions, the best set of them that the CPU has, or that `VLAPACK_ISA`
names. `triton` runs on GPUs, NVIDIA's and AMD's. `reference` is torch alone, on any device: it defines the results, and
is several times slower. Each device has its own engine: a process may hold one policy on the CPU and one on a card.
On some NVIDIA cards the kernels of `triton` are also shipped compiled, for robots that have no Triton: `ops.cubin`,
chosen by `VLAPACK_KERNELS`.

Under `TRITON_INTERPRET=1`, `VLAPACK_ENGINE=triton` runs the GPU's kernels on the CPU, a thousand times slower: for
tests and for those who develop them.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
from functools import cache

import torch

from vlapack.console import say
from vlapack.errors import InputError, install
from vlapack.machine import gpu
from vlapack.ops.cubin import archive, choice

try:
    from vlapack import _kernels
except ImportError as error:
    _kernels = None  # type: ignore[assignment]
    _why_not = str(error)

kernels = _kernels
"""The compiled module, or None."""
ENGINE_VARIABLE = "VLAPACK_ENGINE"
ISA_VARIABLE = "VLAPACK_ISA"
INTERPRET_VARIABLE = "TRITON_INTERPRET"
REMEDY = f"install a C++17 compiler and run {install(again=True)}"
OLDEST_TRITON = (3, 6)
"""The oldest one that the kernels were compiled and checked with; torch 2.11 brings it."""
COMPILERS = ("gcc", "clang")
"""Those that Triton looks for where `CC` names none."""
WITHOUT = f"or set {ENGINE_VARIABLE}=reference, which is slow"


def available(device: torch.device = gpu.CPU) -> tuple[str, ...]:
    """The engines that a device may take by itself, the best one first."""
    if device.type == "cuda":
        return ("triton", "reference")
    return ("cpu", "reference") if device.type == "cpu" and kernels is not None else ("reference",)


def active(device: torch.device = gpu.CPU) -> str:
    """Return the name of a device's engine: `VLAPACK_ENGINE`, or where that is unset or empty the best there is.

    Args:
        device: where the tensors are; a GPU with or without its number.

    Raises:
        InputError: the variable names an engine that this installation does not have or that does not run on this
            device, `VLAPACK_ISA` names instructions that this CPU does not have, or Triton or the card is unfit.
    """
    name = os.environ.get(ENGINE_VARIABLE)
    if name == "reference" or device.type == "meta":
        return "reference"
    if device.type == "cuda":
        if name in (None, "", "triton"):
            return _start_triton(device)
    elif device.type == "cpu":
        if name == "triton":
            return start_interpreter()
        if not name or name in available():
            return _start()
    elif not name:
        return "reference"
    if name in ("cpu", "triton") and not (name == "cpu" and device.type == "cpu"):
        place = {"cpu": "the CPU", "triton": "GPUs"}[name]
        raise InputError(f"{ENGINE_VARIABLE}={name} runs on {place} and the device is {device}: unset the variable")
    remedy = f"; for cpu, {REMEDY}" if name == "cpu" else ""
    raise InputError(
        f"{ENGINE_VARIABLE}={name}: no such engine here; available: {', '.join(available(device))} (or unset it)"
        f"{remedy}"
    )


def described(device: torch.device = gpu.CPU) -> str:
    """A device's engine and, in brackets, what it runs on: `cpu (avx512vnni)`, `triton 3.6.0 (NVIDIA H200, sm_90, …)`.

    For logs and results; a card comes with its driver.

    Raises:
        InputError: as in `active`.
    """
    name = active(device)
    if name == "cpu":
        return f"cpu ({kernels.isa()})"
    if name == "triton":
        name = kernels_of_gpus()
        if device.type == "cpu":
            return f"{name} (interpreted)"
    return f"{name} ({gpu.card(_numbered(device))})" if device.type == "cuda" else name


@cache
def _start() -> str:
    """Choose the instruction set, once; or say, once, what it costs that the compiled engine is missing."""
    if kernels is None:
        say(f"engine reference: slow, because the compiled engine is not installed ({_why_not}); {REMEDY}")
        return "reference"
    if isa := os.environ.get(ISA_VARIABLE):
        try:
            kernels.choose(isa)
        except ValueError as error:
            raise InputError(f"{ISA_VARIABLE}={error}; available: {', '.join(kernels.available())}") from error
    return "cpu"


@cache
def _start_triton(device: torch.device) -> str:
    """Check, once for each card, that the kernels run there."""
    if (reason := gpu.unsupported(_numbered(device))) is not None:
        raise InputError(f"`device={str(device)!r}`: unsupported card {reason}; give cpu, {WITHOUT}")
    start_kernels(_numbered(device))
    return "triton"


def start_kernels(device: torch.device) -> None:
    """Make the kernels of a GPU with a number ready, shipped ones or Triton's.

    Raises:
        InputError: `VLAPACK_KERNELS` has an unknown value, what it names is missing or does not fit the card, or Triton
            is unfit.
    """
    if (shipped := choice.shipped()) is not None:
        importlib.import_module("vlapack.ops.cubin.launch").start(shipped, device)
        return
    try:
        require_triton()
        _require_compiler()
    except InputError as error:
        if gpu.card(device).architecture not in archive.shipped_targets(archive.FOLDER):
            raise
        remedy = f"or set {choice.KERNELS_VARIABLE}={choice.Shipped()}: compiled kernels for this card are here"
        raise InputError(f"{error}; {remedy}") from error


def kernels_of_gpus() -> str:
    """Name what the kernels of GPUs are made by: `triton 3.6.0`, `cubin`.

    Raises:
        InputError: `VLAPACK_KERNELS` has an unknown value.
    """
    shipped = choice.shipped()
    return f"triton {triton_version()}" if shipped is None else str(shipped)


@cache
def start_interpreter() -> str:
    """Check, once, that the GPU's kernels may be interpreted on the CPU, and say what that costs.

    Raises:
        InputError: nobody asked Triton to, or it is missing.
    """
    if os.environ.get(INTERPRET_VARIABLE) != "1":
        raise InputError(
            f"{ENGINE_VARIABLE}=triton runs on GPUs and the device is cpu: unset the variable, or give `device='cuda'` "
            f"({INTERPRET_VARIABLE}=1 interprets the kernels on the CPU, for those who develop them)"
        )
    if (shipped := choice.shipped()) is not None:
        raise InputError(f"{choice.KERNELS_VARIABLE}={shipped} runs on GPUs and the device is cpu: unset the variable")
    require_triton()
    say(f"engine triton, interpreted on the CPU because of {INTERPRET_VARIABLE}=1: a thousand times slower")
    return "triton"


def require_triton() -> None:
    """Refuse a Triton that is missing, does not load, or is too old.

    Raises:
        InputError: with what to install.
    """
    try:
        version = triton_version()
    except ImportError as error:
        raise InputError(f"the GPU engine needs Triton ({error}); {install('gpu')}, {WITHOUT}") from error
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        raise InputError(
            f"Triton {version} is too old: the GPU engine needs {oldest} or newer, which torch 2.11 brings; "
            f"`pip install --upgrade torch`, {WITHOUT}"
        )


def _require_compiler() -> None:
    """Refuse a machine without what Triton builds a kernel's launcher with; it would say so in the first chunk.

    Raises:
        InputError: with what to install.
    """
    named = os.environ.get("CC")
    if not any(shutil.which(name) for name in ([named] if named else COMPILERS)):
        what = f"CC={named}: no such compiler" if named else f"no C compiler ({', '.join(COMPILERS)})"
        raise InputError(
            f"{what}, which Triton needs to build its kernel launchers; on Debian or Ubuntu: apt-get install -y gcc "
            f"python3-dev, {WITHOUT}"
        )


def triton_version() -> str:
    """Import Triton and return its version."""
    return str(importlib.import_module("triton").__version__)


def _numbered(device: torch.device) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if device.index is None else device
