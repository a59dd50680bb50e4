"""kill -9 in the middle of an evaluation: no process stays behind, and the same run continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import simulators
from fakes import Drunkard, contender, plan

from vlapack.evaluate.run import evaluate

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import simulators
from fakes import Drunkard, contender, plan
from vlapack.evaluate.run import evaluate

if __name__ == "__main__":
    entry = contender("policy", Drunkard())
    evaluate(plan([entry]), [entry], Path(sys.argv[2]), workers=2, factory=simulators.slow, videos=False)
"""
SECONDS = 300.0  # a starved machine imports torch slowly


def wait_until(happened: object, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not happen in {SECONDS} s"
        time.sleep(0.05)


def test_a_killed_evaluation_leaves_no_process_and_continues(tmp_path: Path) -> None:
    script, out, pids = tmp_path / "run.py", tmp_path / "out", tmp_path / "pids"
    script.write_text(RUN)
    pids.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(out)],
        env={**os.environ, "FAKE_PIDS": str(pids)},
        stderr=subprocess.DEVNULL,
    )
    record = out / "episodes.jsonl"
    wait_until(lambda: record.exists() and record.read_text().count("\n") >= 2, "two finished episodes")
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = record.read_text().splitlines()
    assert len(done) < len(plan([]).cases())
    workers = [int(path.name) for path in pids.iterdir()]
    assert workers
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers' end")

    entry = contender("policy", Drunkard())
    resumed = evaluate(plan([entry]), [entry], out, workers=1, factory=simulators.walk, videos=False)["policy"]
    assert record.read_text().splitlines()[: len(done)] == done
    whole = evaluate(plan([entry]), [entry], tmp_path / "whole", workers=1, factory=simulators.walk, videos=False)
    assert [(r.case, r.success, r.steps) for r in resumed] == [(r.case, r.success, r.steps) for r in whole["policy"]]
