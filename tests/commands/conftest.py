"""A place to quantize in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from shop import Shop


@pytest.fixture
def shop(
    random_checkpoint: Path,
    observation_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    for name in [name for name in os.environ if name.startswith("OPENPI_")]:
        monkeypatch.delenv(name)
    return Shop(tmp_path, random_checkpoint, observation_folder, capsys, monkeypatch)
