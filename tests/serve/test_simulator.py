"""openpi's evaluation loop in the real simulator, against a server: examples/libero/main.py with --host and --port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from process import served

MAIN = Path(__file__).parents[2] / "examples" / "libero" / "main.py"


@pytest.mark.slow
@pytest.mark.simulator
def test_an_episode_of_libero_is_played_by_a_server(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OPENPI_DUQUANT_")}
    with served(tmp_path, "tiny-libero") as server:
        where = ("--host", "127.0.0.1", "--port", str(server.event["port"]))
        episodes = ("--args.task-ids", "0", "--args.num-trials-per-task", "1", "--args.workers", "1")
        out = tmp_path / "out"
        played = subprocess.run(
            [sys.executable, MAIN, *where, *episodes, "--args.headless", "--args.video-out-path", out],
            env=environ, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert played.returncode == 0, played.stderr
        server.end()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["episodes"] == 1
    assert summary["verdict"] == "no_baseline"
    assert len(list((out / "videos").rglob("*.mp4"))) == 1
