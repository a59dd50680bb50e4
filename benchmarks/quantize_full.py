"""How long does quantizing a full-size π0.5 take, and how much memory?

    python benchmarks/quantize_full.py FOLDER [--runs weights-only,calibrated,gptq,max-error]

FOLDER holds the parent, and a pack at a time: about 12 GB, and 20 with what `--max-error` measures. A synthetic parent
is written where there is none. Every run is the command `vlapack quantize` in a process of its own; calibration is
compared with what its observations would take one by one in a float policy of the same dtype. The result goes into
results/quantize_full-<isa>.json; runs that are not asked for keep their rows there, each of its own day and CPU.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import synthetic_pi05
import torch
import tyro
from common.results import isa, origin, stamp

from vlapack import Policy, open_checkpoint
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.observations.folder import SHIPPED_OBSERVATIONS, load_observations
from vlapack.packing.parent import Parent
from vlapack.packing.streaming import compute_dtype

RUNS = {
    "weights-only": ("--preset", "full", "--weights-only", "--rounding", "rtn"),
    "calibrated": ("--preset", "full", "--rounding", "rtn"),
    "gptq": ("--preset", "llm-dit", "--rounding", "gptq"),
    "max-error": ("--max-error", "1%"),
}
MEASURED = "max-error"
"""The run that chooses the bits itself; it divides its observations into those that calibrate and those kept back."""
RESULTS = Path(__file__).parent / "results"
CHUNKS = 3


def main(
    folder: tyro.conf.Positional[Path],
    *,
    runs: str = ",".join(RUNS),
    observations: int = 32,
    measured: int = 48,
    config: str = "pi05_libero",
    result: Path | None = None,
) -> None:
    """Measure.

    Args:
        folder: Where there are 12 GB to spare; the parent stays in it.
        runs: Which of weights-only, calibrated, gptq and max-error.
        observations: How many calibrate.
        measured: How many max-error takes.
        config: Of the parent.
        result: The JSON file. Default: benchmarks/results/quantize_full-<isa>.json.
    """
    place = result or RESULTS / f"quantize_full-{isa()}.json"
    if unknown := [name for name in runs.split(",") if name not in RUNS]:
        raise InputError(f"unknown run {unknown[0]!r}; there are {', '.join(RUNS)}")
    parent = folder / config
    if not parent.exists():
        synthetic_pi05.main(parent, config=config)
    document = json.loads(place.read_text()) if place.exists() else {}
    rows = {row["run"]: row for row in document.get("rows", [])}
    for name in runs.split(","):
        words = RUNS[name]
        if name == MEASURED:
            words = (*words, "--observations", str(measured))
        elif name != "weights-only":
            words = (*words, "--calib-steps", str(observations))
        say(f"{name}: vlapack quantize {' '.join(words)}")
        found = _quantize(parent, config, words, folder / "pack")
        rows[name] = {"run": name, "flags": " ".join(words), **origin(), **found}
    # Rows that are kept were calibrated by other observations, beside other work.
    if calibrated := [
        row for name in runs.split(",") if (row := rows[name]).get("calibration_seconds") and name != MEASURED
    ]:
        chunk, dtype = _float_chunk(parent, config)
        for row in calibrated:
            row |= {"observations": observations, "dtype": dtype, "float_chunk_seconds": chunk}
            row["calibration_over_chunks"] = row["calibration_seconds"] / (observations * chunk)
    document = {
        "question": "How long does quantizing a full-size policy take, and how much memory?",
        "parent": f"{config}, synthetic",
        "threads": torch.get_num_threads(),
        **stamp(),
        "rows": list(rows.values()),
    }
    place.write_text(json.dumps(document, indent=2) + "\n")


def _quantize(parent: Path, config: str, words: tuple[str, ...], pack: Path) -> dict[str, Any]:
    """Run the command, remove the pack, and return what its `--json` says of time, memory and error."""
    shutil.rmtree(pack, ignore_errors=True)
    shutil.rmtree(pack.with_name(f"{pack.name}.partial"), ignore_errors=True)
    command = "import sys; from vlapack.cli import main; sys.exit(main())"
    flags = ["quantize", str(parent), "--config", config, "--out", str(pack), "--json", *words]
    done = subprocess.run([sys.executable, "-c", command, *flags], check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(pack)
    said = json.loads(done.stdout)
    # What a target chose has an error of actions too; its `layers` counts them by their bits.
    kept = ("layers", "seconds", "calibration_seconds", "peak_rss_bytes", "bytes", "weight_error", "error", "target")
    return {key: said[key] for key in kept if key in said}


def _float_chunk(parent: Path, config: str) -> tuple[float, str]:
    """Seconds of one action chunk of the float policy in the dtype in which calibration computes; the median."""
    checkpoint = open_checkpoint(parent, config=config)
    dtype = compute_dtype(Parent(checkpoint))
    policy = Policy.from_checkpoint(checkpoint, dtype=dtype)
    observation = load_observations(SHIPPED_OBSERVATIONS)[0]
    seconds = []
    for _ in range(CHUNKS + 1):  # the first one warms up
        start = time.perf_counter()
        policy.infer(observation)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    tyro.cli(main)
