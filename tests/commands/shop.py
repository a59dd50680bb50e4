"""Runs `vlapack quantize` on the random policy, whole or until a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vlapack.checkpoints.pack.writer import PackWriter
from vlapack.cli import main

DIT = ["--preset", "dit", "--rounding", "rtn", "--weights-only"]
CALIBRATED = ["--preset", "dit", "--calib-steps", "4"]


class KilledError(BaseException):
    """Stands for a kill where a process of its own would cost seconds."""


def die(*_: object, **__: object) -> Any:
    raise KilledError


def die_after(pieces: int) -> Callable[..., None]:
    write, left = PackWriter.write, iter(range(pieces))

    def counted(*args: Any) -> None:
        if next(left, None) is None:
            raise KilledError
        write(*args)

    return counted


@dataclass
class Shop:
    """Runs `vlapack` on the random policy, in a folder of its own."""

    folder: Path
    parent: Path
    observations: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def quantize(self, out: str, *words: str) -> int:
        """Return the exit code; the recorded observations calibrate unless `--weights-only` or `--calib` is said."""
        if not {"--weights-only", "--calib", "dit-fast"} & set(words):
            words = (*words, "--calib", str(self.observations))
        return main(["quantize", str(self.parent), "--out", str(self.folder / out), *words])

    def interrupt(self, kill: tuple[Any, str, Any], out: str, *words: str) -> None:
        """Begin to quantize and be killed, where `kill` (an object, its attribute, what to put there) says."""
        with self.monkeypatch.context() as patch:
            patch.setattr(*kill)
            with pytest.raises(KilledError):
                self.quantize(out, *words)

    def contents(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / name).iterdir()}

    def printed(self) -> str:
        return self.capsys.readouterr().out

    def said(self) -> str:
        return self.capsys.readouterr().err.replace("\n", " ")
