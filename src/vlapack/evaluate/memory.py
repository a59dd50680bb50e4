"""Whether the policies of an evaluation fit into this machine's memory, asked before hours of work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlapack.console import say
from vlapack.errors import InputError

WORKER_BYTES = 2_000_000_000
"""A process with one LIBERO scene under Mesa's software rendering: 1.6-1.8 GB resident, measured."""

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Memory that can be taken now: what Linux calls available, or less if the container allows less.

    None where the system does not say (not Linux).
    """
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    limit = cgroup / "memory.max"
    if limit.exists() and (allowed := limit.read_text().strip()) != "max":
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        # Cached file pages count as used, and are given back when they are needed.
        used = int((cgroup / "memory.current").read_text()) - int(statistics["inactive_file"])
        available = min(available, int(allowed) - used)
    return max(available, 0)


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
        say("this system does not tell its available memory; going on without the check")
        return
    name, largest = max(needed.items(), key=lambda item: item[1])
    total = largest + workers * WORKER_BYTES
    if total > available:
        raise InputError(
            f"{name} needs {largest / 1e9:.1f} GB and {workers} simulators {workers * WORKER_BYTES / 1e9:.1f} GB, "
            f"but {available / 1e9:.1f} GB of memory are available; use fewer --workers or a smaller policy"
        )
