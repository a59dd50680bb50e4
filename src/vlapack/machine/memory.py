"""How much memory can be taken now."""

from __future__ import annotations

from pathlib import Path

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
