"""Waiting threads sleep if vlapack is imported first, spin if that comes too late, and do as the user says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def after(code: str, theirs: dict[str, str]) -> str:
    """Run code in a fresh process that has the user's variables; return what it found, as text."""
    environ = {name: value for name, value in os.environ.items() if name not in NAMES} | theirs
    look = (
        "import os; from vlapack.machine.waiting import came_too_late; "
        f"print(*map(os.environ.get, {NAMES}), came_too_late())"
    )
    command = [sys.executable, "-c", f"{code}; {look}"]
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        ({}, "PASSIVE 1000 False"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None False"),
        ({"GOMP_SPINCOUNT": "9"}, "PASSIVE 9 False"),
    ],
)
def test_vlapack_first_lets_waiting_threads_sleep_unless_the_user_says_otherwise(
    theirs: dict[str, str], found: str
) -> None:
    assert after("import vlapack", theirs) == found


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        ({}, "None None True"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "PASSIVE None False"),
    ],
)
def test_torch_first_is_too_late_unless_the_user_has_set_the_policy(theirs: dict[str, str], found: str) -> None:
    assert after("import torch, vlapack", theirs) == found


def test_importing_torch_after_vlapack_is_not_too_late() -> None:
    assert after("import vlapack, torch, vlapack.policy.policy", {}) == "PASSIVE 1000 False"
