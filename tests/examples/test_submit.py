"""The submitit example asks for every shard once, and merges when all are done. submitit itself is not needed here."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "submit.py"


class Executor:
    def batch(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def submit(self, shard: Callable[[], None]) -> SimpleNamespace:
        return SimpleNamespace(result=shard)


def test_every_shard_is_played_and_then_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("submit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    submit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(submit)
    typed: list[list[str]] = []

    def run(command: list[str], check: bool) -> SimpleNamespace:
        typed.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    assert submit.main(3, ["PACK", "--out", "DIR"], Executor()) == 0
    assert typed == [
        *(["vlapack", "eval", "PACK", "--out", "DIR", "--shard", f"{number}/3"] for number in (1, 2, 3)),
        ["vlapack", "merge", "DIR"],
    ]
