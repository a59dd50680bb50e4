"""How much memory can be taken now, and how much this process has."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
STATUS = Path("/proc/self/status")


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


def process_memory() -> dict[str, int]:
    """Return the bytes of this process in memory now, and at most so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if not STATUS.exists():
        return {"rss_bytes": most, "peak_rss_bytes": most}
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return {"rss_bytes": int(fields["VmRSS"].split()[0]) * 1024, "peak_rss_bytes": most}
