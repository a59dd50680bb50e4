"""What machine this is: named in every result, since one CPU is several times faster than another at this work."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
# The instruction sets that decide how fast integer and bf16 products are.
NOTABLE = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction-set flags that Linux reports; empty on other systems."""
    return frozenset(_field("flags").split() + _field("Features").split())


def fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32 (AVX-512 bf16, AMX); elsewhere torch emulates it, slowly."""
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def describe_machine() -> dict[str, Any]:
    """CPU, its notable instruction sets, logical cores, memory in GB and system: JSON-ready."""
    return {
        "cpu": _field("model name") or platform.processor() or platform.machine(),
        "family": f"{_field('cpu family')}/{_field('model')}" if _field("cpu family") else platform.machine(),
        "isa": [flag for flag in NOTABLE if flag in cpu_flags()],
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


@cache
def _field(name: str) -> str:
    if not CPUINFO.exists():
        return ""
    for line in CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
