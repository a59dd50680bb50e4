"""What packing does at π0.5's real size, in one sentence: measured here in 90 seconds, or as it was measured before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlapack.console import say
from vlapack.machine.cpu import describe_machine, fast_bf16
from vlapack.machine.memory import available_bytes

COMMITTED = Path(__file__).parents[1] / "benchmarks" / "results" / "chunk-avx512vnni.json"
NEEDED = 8e9
"""Bytes: the float network in bf16 with its pages, and the packed one."""
SECONDS = 90.0
BENCH = ("bench", "--arch", "pi05_libero", "--policy", "full", "--baseline", "float", "--repeats", "1", "--json")


def real_size(seconds: float = SECONDS) -> str:
    """Time a chunk of π0.5 with random weights, float and packed, where that is quick; else say what is committed."""
    if not fast_bf16():
        return committed("this CPU has no instructions for bf16, so the float network would take minutes")
    free = available_bytes()
    if free is not None and free < NEEDED:
        return committed(f"it takes {NEEDED / 1e9:.0f} GB of memory, and {free / 1e9:.1f} are free")
    say(f"== π0.5 at its real size with random weights: at most {seconds:.0f} s")
    found = _bench(seconds)
    if found is None:
        return committed(f"it was not done in {seconds:.0f} s, as when something else runs")
    machine = f"{describe_machine()['cpu']}, {found['threads']} threads"
    return _sentence(f"here ({machine}; random weights)", found["policy"], found["baseline"])


def committed(reason: str) -> str:
    """Say what was measured on another machine, and why not here."""
    document = json.loads(COMMITTED.read_text())
    rows = {row["name"]: row for row in document["rows"]}
    where = f"not measured here ({reason}); on {document['cpu']} with {document['threads']} threads, 4 bits throughout"
    source = f"{COMMITTED.parent.parent.name}/results/{COMMITTED.name}"
    return f"{_sentence(where, rows['full@bfloat16'], rows['float@bfloat16'])} ({source})"


def _sentence(where: str, packed: Mapping[str, Any], parent: Mapping[str, Any]) -> str:
    said = [
        f"{row['weight_bytes'] / 1e9:.2f} GB and {row['ms_per_chunk']['median'] / 1e3:.1f} s"
        for row in (packed, parent)
    ]
    return f"π0.5 at its real size, {where}: packed {said[0]} a chunk, float {said[1]}"


def _bench(seconds: float) -> dict[str, Any] | None:
    """Return what the command found, or None if the time was not enough; all its processes are ended then."""
    command = [sys.executable, "-c", "import sys; from vlapack.cli import main; sys.exit(main())", *BENCH]
    with subprocess.Popen(
        [*command, "--dtype", "bfloat16"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise SystemExit(process.returncode)  # the command has said why
    found: dict[str, Any] = json.loads(out)
    return found
