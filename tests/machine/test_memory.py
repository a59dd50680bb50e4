from __future__ import annotations

from pathlib import Path

from vlapack.machine.memory import available_bytes


def test_a_container_may_allow_less_than_the_machine_has(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000000 kB\nMemAvailable:   4000000 kB\n")
    assert available_bytes(meminfo, tmp_path) == 4_096_000_000
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\ninactive_file 500000\n")
    assert available_bytes(meminfo, tmp_path) == 800_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 4_096_000_000


def test_unknown_memory_is_said_and_not_guessed(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "none", tmp_path) is None
