"""What does it cost to look for NaN and infinity in every weight when a policy is loaded?

    python benchmarks/loading.py [FOLDER] [--pairs 15]

A float π0.5 of full width and a few layers (1.6 GB, made once, beside the results if no folder is named) is loaded by
fresh processes that take turns, with the check and without it, its file in the page cache. The result is the median of
the pairs' ratios, in wall time and in CPU time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro
from common.results import keep, stamp
from synthetic_pi05 import main as write_checkpoint

from vlapack.checkpoints.configs import policy_config
from vlapack.console import say
from vlapack.progress import progress

RESULT = Path(__file__).parent / "results" / "loading.json"
LAYERS = 3

LOAD = """
import json, os, sys, time
import vlapack.checkpoints.finite as finite
if sys.argv[2] == "without":
    finite.is_finite = lambda tensor: True
from vlapack import Policy, open_checkpoint
checkpoint = open_checkpoint(sys.argv[1], config=sys.argv[3])
start, before = time.perf_counter(), os.times()
Policy.from_checkpoint(checkpoint)
wall, after = time.perf_counter() - start, os.times()
print(json.dumps([wall, after.user + after.system - before.user - before.system]))
"""


def main(folder: tyro.conf.Positional[Path | None] = None, *, pairs: int = 15, out: Path = RESULT) -> None:
    """Measure.

    Args:
        folder: Where the checkpoint is, or shall be made; kept. Default: a temporary folder.
        pairs: How many loads of each kind.
        out: The JSON to write.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch) / "checkpoint"
        config = _configuration(Path(scratch) / "config.json")
        if not place.exists():
            say(f"{place}: writing {LAYERS} layers of each stack at full width")
            write_checkpoint(place, config=str(config))
        seconds: dict[str, list[list[float]]] = {"with": [], "without": []}
        _load(place, "with", config)  # into the page cache
        with progress("loading", 2 * pairs) as advance:
            for number in range(pairs):
                for kind in ("with", "without") if number % 2 else ("without", "with"):
                    seconds[kind].append(_load(place, kind, config))
                    advance(kind)
        size = (place / "model.safetensors").stat().st_size
    turns = zip(seconds["with"], seconds["without"], strict=True)
    ratios = [[a / b for a, b in zip(*pair, strict=True)] for pair in turns]
    document = {
        "question": "What does it cost to look for NaN and infinity in every weight while a policy is loaded?",
        "gigabytes": round(size / 1e9, 2),
        "pairs": pairs,
        "wall_seconds": {kind: round(statistics.median(row[0] for row in rows), 3) for kind, rows in seconds.items()},
        "cpu_seconds": {kind: round(statistics.median(row[1] for row in rows), 3) for kind, rows in seconds.items()},
        "wall_ratio": round(statistics.median(row[0] for row in ratios), 3),
        "cpu_ratio": round(statistics.median(row[1] for row in ratios), 3),
        **stamp(),
        "load_average": os.getloadavg()[1],
    }
    keep(document, out)


def _configuration(path: Path) -> Path:
    """Write the configuration of a shallow π0.5."""
    whole = policy_config("pi05_libero").architecture
    shallow = {part: {**vars(getattr(whole, part)), "depth": LAYERS} for part in ("vision", "llm", "expert")}
    path.write_text(json.dumps({"base": "pi05_libero", "architecture": {**whole.to_dict(), **shallow}}))
    return path


def _load(folder: Path, kind: str, config: Path) -> list[float]:
    command = [sys.executable, "-c", LOAD, str(folder), kind, str(config)]
    found: list[float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


if __name__ == "__main__":
    tyro.cli(main)
