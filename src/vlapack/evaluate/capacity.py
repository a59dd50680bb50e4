"""Whether the policies of an evaluation fit into this machine's memory, asked before hours of work."""

from __future__ import annotations

from collections.abc import Mapping

from vlapack.console import say
from vlapack.errors import InputError
from vlapack.libero.distribution import HF, find
from vlapack.machine.memory import available_bytes

WORKER_BYTES = 2_000_000_000
"""A process with one LIBERO scene under Mesa's software rendering: 1.6-1.9 GB resident, measured."""

HF_WORKER_BYTES = 2_800_000_000
"""The same with hf-libero, which imports torch: measured, with a build of torch for CUDA."""


def worker_bytes() -> int:
    """Return what a process with one scene takes, for the distribution of LIBERO that is installed."""
    libero = find()
    return HF_WORKER_BYTES if libero is not None and libero.distribution == HF else WORKER_BYTES


def require_memory(needed: Mapping[str, int], workers: int, available: int | None = None) -> None:
    """Raise InputError if the largest policy and the simulators do not fit; policies run one after another.

    Args:
        needed: bytes per policy name; empty: nothing is to be run.
        workers: number of simulator processes.
        available: bytes; asked of the system unless given.
    """
    if not needed:
        return
    available = available_bytes() if available is None else available
    if available is None:
        say("this system does not report its available memory; continuing without the check")
        return
    name, largest = max(needed.items(), key=lambda item: item[1])
    simulators = workers * worker_bytes()
    total = largest + simulators
    if total > available:
        raise InputError(
            f"{name} needs {largest / 1e9:.1f} GB and {workers} simulators {simulators / 1e9:.1f} GB, "
            f"but {available / 1e9:.1f} GB of memory are available; use fewer `workers` or a smaller policy"
        )
