"""`vlapack serve` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Served:
    """The process, and the event that it announced."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        self.event: dict[str, Any] = json.loads(line)

    @property
    def url(self) -> str:
        return f"ws://{self.event['host']}:{self.event['port']}"

    def end(self, timeout: float = 60) -> str:
        """SIGTERM; returns what it said, once it has ended well."""
        self.process.terminate()
        code = self.process.wait(timeout)
        said = self.log.read_text()
        assert code == 0, said
        return said


@contextmanager
def served(tmp_path: Path, *arguments: str) -> Iterator[Served]:
    """Run `vlapack serve ARGUMENTS --port 0` until the block ends."""
    log = tmp_path / "serve.log"
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "vlapack.cli", "serve", *arguments, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environ,
            text=True,
        ) as process,
    ):
        try:
            yield Served(process, log)
        finally:
            process.kill()
