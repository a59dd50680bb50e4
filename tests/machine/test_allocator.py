"""The allocator: what is let go of stays for the next chunk, unless the user tunes glibc; others are left alone."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys
from typing import Any

import pytest

from vlapack.machine import allocator

FAULTS = """
import ctypes, resource
from vlapack.machine import allocator
size = 20 << 20
library = ctypes.CDLL("libc.so.6")
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
{tune}
for turn in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [library.malloc(size) for _ in range(4)]
    for address in held:
        ctypes.memset(address, 1, size)
    for address in held:
        library.free(address)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Asks the allocator itself: which pieces of a tensor's aligned memory join when they are free depends on what lies
between them, so that even the same program takes anything from two to four turns until nothing is mapped anew."""


def faults(tune: str = "") -> int:
    """Pages that are mapped anew when 80 MB are allocated for the eighth time."""
    command = [sys.executable, "-c", FAULTS.format(tune=tune)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(allocator._glibc() is None, reason="another C library")
def test_what_a_chunk_lets_go_of_is_there_for_the_next() -> None:
    assert faults("allocator.settle()") < 100 < faults()


@pytest.mark.skipif(allocator._glibc() is None, reason="another C library")
def test_large_blocks_leave_no_holes_in_the_heap() -> None:
    held = "allocator.settle(); allocator.map_large_blocks()"
    assert faults(held) >= 80 * 2**20 // resource.getpagesize()


class Fake:
    def __init__(self) -> None:
        self.called: list[tuple[str, tuple[int, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.called.append((name, args))


def test_the_users_own_tuning_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setattr(allocator, "_glibc", lambda: fake)
    allocator.settle()
    assert [name for name, _ in fake.called] == ["malloc_trim", "mallopt", "mallopt"]
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    allocator.settle()
    allocator.map_large_blocks()
    assert [name for name, _ in fake.called[3:]] == ["malloc_trim"]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    allocator._glibc.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    allocator.settle()
    allocator._glibc.cache_clear()
