"""The number of threads decides bytes: it is in the pack, and a run that goes on uses the one it began with."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from shop import CALIBRATED, Shop, die_after

from vlapack.checkpoints.pack.writer import PackWriter, partial_path
from vlapack.ops.arithmetic import on_threads
from vlapack.packing import make


def made_with(shop: Shop, pack: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((shop.folder / pack / "config.json").read_text())
    return dict(document["made_with"])


def test_a_run_that_goes_on_uses_the_threads_that_it_began_with(shop: Shop) -> None:
    with on_threads(3):
        assert shop.quantize("whole", *CALIBRATED) == 0
        shop.interrupt((PackWriter, "write", die_after(3)), "pack", *CALIBRATED)
    seen, write = set(), PackWriter.write

    def watched(*args: Any) -> None:
        seen.add(torch.get_num_threads())
        write(*args)

    shop.said()
    shop.monkeypatch.setattr(PackWriter, "write", watched)
    assert shop.quantize("pack", *CALIBRATED) == 0
    assert "began with 3 threads" in shop.said()
    assert seen == {3}
    assert torch.get_num_threads() == 1
    assert shop.contents("pack") == shop.contents("whole")
    assert made_with(shop, "pack")["threads"] == 3
    assert made_with(shop, "pack")["calibrates_in"] in ("float32", "bfloat16")


@pytest.mark.parametrize("field", ["torch", "cpu", "instructions", "engine", "variables"])
def test_what_cannot_be_used_again_is_refused_by_name(shop: Shop, field: str) -> None:
    shop.interrupt((PackWriter, "write", die_after(3)), "pack", *CALIBRATED)
    held = shop.contents("pack.partial/pack")
    here = make.arithmetic()
    shop.monkeypatch.setattr(make, "arithmetic", lambda device: {**here, field: "another"})
    assert shop.quantize("pack", *CALIBRATED) == 2
    assert f"{field}: {here[field]!r} there, 'another' here" in shop.said()
    assert shop.contents("pack.partial/pack") == held


def test_a_finished_pack_is_itself_whatever_made_it(shop: Shop) -> None:
    """A pack is not made again for its last bits, and one of an older version does not say what made it."""
    assert shop.quantize("pack", *CALIBRATED) == 0
    with on_threads(2):
        assert shop.quantize("pack", *CALIBRATED) == 0
    assert "this very pack already" in shop.printed()


GPTQ = ["--preset", "llm", "--calib-steps", "2"]
"""Before packing fixed its threads, the fewest layers and observations whose bytes differed between one and two."""


KILLS = 8
"""With the same number of threads afterwards, and as many with the other."""


def run(out: Path, threads: int, *, kill_after: float | None = None) -> int:
    """Quantize tiny-libero in a process of its own; `kill_after` seconds after its work folder is there, kill it."""
    words = [sys.executable, "-m", "vlapack.cli", "quantize", "tiny-libero", "--out", str(out), *GPTQ]
    environ = {"OMP_NUM_THREADS": str(threads), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        if kill_after is not None:
            while process.poll() is None and not partial_path(out).exists():
                time.sleep(0.005)
            time.sleep(kill_after)
            process.send_signal(signal.SIGKILL)
    return process.returncode


@pytest.mark.slow
def test_random_kills_and_another_number_of_threads(tmp_path: Path) -> None:
    """As often with the same number as with the other; every end is byte for byte that of the beginning."""
    whole = {}
    for threads in (1, 2):
        start = time.monotonic()
        assert run(tmp_path / f"whole-{threads}", threads) == 0
        seconds = time.monotonic() - start
        whole[threads] = contents(tmp_path / f"whole-{threads}")
    assert whole[1] != whole[2]  # what they were made with, at least
    draw = random.Random(18)
    for number in range(2 * KILLS):
        begun = 1 + number // 2 % 2
        goes_on = begun if number % 2 else 3 - begun
        out = tmp_path / f"pack-{number}"
        while run(out, begun, kill_after=draw.uniform(0, seconds / 2)) != -signal.SIGKILL:
            shutil.rmtree(out)  # it was done before the kill came
        assert run(out, goes_on) == 0
        began = json.loads((out / "config.json").read_text())["made_with"]["threads"]
        assert began in (begun, goes_on)  # killed before it wrote its plan, it had not begun
        assert contents(out) == whole[began], number
        assert not partial_path(out).exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
