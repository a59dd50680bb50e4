"""The allocator: what is let go of stays for the next chunk, unless the user tunes glibc; others are left alone."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest

from vlapack import memory

FAULTS = """
import resource, torch
from vlapack.memory import settle
torch.set_num_threads(1)
if {settled}:
    settle()
for turn in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(5 << 20) for _ in range(4)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, settled: bool) -> int:
    """Pages that are mapped anew when 80 MB are allocated for the fourth time."""
    command = [sys.executable, "-c", FAULTS.format(settled=settled)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(memory._glibc() is None, reason="another C library")
def test_what_a_chunk_lets_go_of_is_there_for_the_next() -> None:
    assert faults(settled=True) < 100 < faults(settled=False)


class Fake:
    def __init__(self) -> None:
        self.called: list[tuple[str, tuple[int, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.called.append((name, args))


def test_the_users_own_tuning_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setattr(memory, "_glibc", lambda: fake)
    memory.settle()
    assert [name for name, _ in fake.called] == ["malloc_trim", "mallopt", "mallopt"]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    memory.settle()
    assert [name for name, _ in fake.called[3:]] == ["malloc_trim"]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    memory._glibc.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    memory.settle()
    memory._glibc.cache_clear()
