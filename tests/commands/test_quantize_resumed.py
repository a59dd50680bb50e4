"""`vlapack quantize`, killed anywhere: the same command goes on, and ends in the same bytes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from shop import CALIBRATED, DIT, Shop, die, die_after

from vlapack.checkpoints.pack import writer as packwriter
from vlapack.checkpoints.pack.writer import PackWriter, partial_path
from vlapack.cli import main
from vlapack.packing import layers as walk

KILLS: dict[str, tuple[Any, str, Any]] = {
    "while calibrating": (walk, "stream", die),
    "before the first layer": (PackWriter, "write", die_after(0)),
    "among the layers": (PackWriter, "write", die_after(4)),
    "among the other tensors": (PackWriter, "write", die_after(40)),
    "before the rename": (PackWriter, "finish", die),
    "before it is on the disk": (packwriter, "sync_tree", die),
    "after the rename": (packwriter, "remove_claimed", die),
}


@pytest.fixture(scope="module")
def whole(
    random_checkpoint: Path, observation_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What an uninterrupted run with CALIBRATED gives."""
    out = tmp_path_factory.mktemp("whole") / "pack"
    words = ["quantize", str(random_checkpoint), "--out", str(out), "--calib", str(observation_folder), *CALIBRATED]
    assert main(words) == 0
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("place", KILLS)
def test_killed_the_same_command_goes_on_to_the_same_bytes(shop: Shop, whole: dict[str, bytes], place: str) -> None:
    shop.interrupt(KILLS[place], "pack", *CALIBRATED)
    assert shop.quantize("pack", *CALIBRATED) == 0
    assert shop.contents("pack") == whole
    assert not partial_path(shop.folder / "pack").exists()


def test_kill_9_in_the_middle(shop: Shop) -> None:
    slow = (
        "import sys, time; from vlapack.checkpoints.pack.writer import PackWriter; from vlapack.cli import main\n"
        "write = PackWriter.write\n"
        "PackWriter.write = lambda *args: (time.sleep(0.05), write(*args))\n"
        "sys.exit(main())"
    )
    words = ["quantize", str(shop.parent), "--out", str(shop.folder / "pack"), *DIT]
    journal = partial_path(shop.folder / "pack") / "journal.jsonl"
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}  # as many as here, so that "whole" is the same too
    with subprocess.Popen([sys.executable, "-c", slow, *words], env=environ, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 5) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (shop.folder / "pack").exists()
    for out in ("pack", "whole"):
        assert shop.quantize(out, *DIT) == 0
    assert shop.contents("pack") == shop.contents("whole")


class FullDisk:
    """The journal of a disk that has room for three more lines."""

    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 3

    def write(self, line: bytes) -> int:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(line))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_disk_that_fills_up_keeps_what_is_finished(shop: Shop) -> None:
    resume = PackWriter._resume
    with shop.monkeypatch.context() as patch:
        patch.setattr(PackWriter, "_resume", lambda self: FullDisk(resume(self)))
        assert shop.quantize("pack", *DIT, "--fold", "False") == 1
    assert "free some space and give the same command again" in shop.said()
    assert not (shop.folder / "pack").exists()
    assert shop.quantize("pack", *DIT, "--fold", "False") == 0
    assert "3 of 8 groups of layers are finished" in shop.said()


GPTQ = ["--preset", "llm", "--calib-steps", "4", "--rounding", "gptq", "--rotation", "greedy", "--group-size", "32"]


def test_gptq_is_resumed_to_the_same_bytes_and_names_the_layers_that_have_no_inputs(shop: Shop) -> None:
    shop.interrupt((PackWriter, "write", die_after(3)), "pack", *GPTQ)
    for out in ("pack", "whole"):
        assert shop.quantize(out, *GPTQ, "--json") == 0
        document = json.loads(shop.printed())
        assert len(document["without_inputs"]) == 5
        assert all(".layers.1." in name for name in document["without_inputs"])
    assert shop.contents("pack") == shop.contents("whole")
    assert main(["verify", str(shop.folder / "pack")]) == 0
