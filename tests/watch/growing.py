"""Runs that grow line by line, as an evaluation writes them."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from made_runs import write_run


class Growing:
    """A run's folder whose episodes come when they are told to; all of them are known in advance."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        whole = write_run(tmp_path / "whole", **settings)
        self.lines = (whole / "episodes.jsonl").read_bytes().splitlines(keepends=True)
        self.summary = whole / "summary.json"
        self.folder = tmp_path / "run"
        self.folder.mkdir()
        shutil.copy(whole / "plan.json", self.folder)
        if (whole / "videos").is_dir():
            shutil.copytree(whole / "videos", self.folder / "videos")
        self.episodes = self.folder / "episodes.jsonl"
        self.played = 0

    def play(self, count: int = 1) -> None:
        """Let the next episodes end."""
        self.write(b"".join(self.lines[self.played : self.played + count]))
        self.played += count

    def write(self, text: bytes) -> None:
        """Append anything."""
        with self.episodes.open("ab") as file:
            file.write(text)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Hold the lock that an evaluation holds."""
        self.episodes.touch()
        with self.episodes.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
