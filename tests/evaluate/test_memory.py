from __future__ import annotations

from pathlib import Path

import pytest

from vlapack.errors import InputError
from vlapack.evaluate.memory import WORKER_BYTES, available_bytes, require_memory


def test_too_large_a_policy_is_named_with_both_sizes() -> None:
    with pytest.raises(InputError, match=r"pi05 needs 7\.5 GB .* 4\.0 GB of memory are available"):
        require_memory({"pack": 10**9, "pi05": 7_500_000_000}, workers=2, available=4_000_000_000)


def test_policies_do_not_add_up_because_they_run_one_after_another() -> None:
    require_memory({"pack": 3 * 10**9, "pi05": 3 * 10**9}, workers=1, available=3 * 10**9 + WORKER_BYTES)


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
