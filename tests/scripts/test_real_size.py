"""The demonstration's line about the real size: no figure without its source, and no process left behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import real_size  # noqa: E402


def test_a_cpu_without_bf16_gets_the_committed_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_size, "fast_bf16", lambda: False)
    said = real_size.real_size()
    assert "not measured here (this CPU has no instructions for bf16" in said
    assert said.endswith("(benchmarks/results/chunk-avx512vnni.json)")


def test_too_little_memory_gets_the_committed_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_size, "fast_bf16", lambda: True)
    monkeypatch.setattr(real_size, "available_bytes", lambda: 3_000_000_000)
    assert "it takes 8 GB of memory, and 3.0 are free" in real_size.real_size()


def test_when_the_time_is_over_nothing_goes_on_working(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    note = tmp_path / "child"
    child = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = tmp_path / "python"
    parent.write_text(f'#!/bin/sh\n{sys.executable} -c "{child}" &\nsleep 60\n')
    parent.chmod(0o755)
    monkeypatch.setattr(real_size.sys, "executable", str(parent))
    assert real_size._bench(1.5) is None
    pid = int(note.read_text())
    for _ in range(50):
        if _ended(pid):
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} goes on")


def _ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "Z"  # nobody has waited for it yet
