"""What does --compile cost, and what does it gain: the first process, the next ones, and each chunk, against eager?

    python benchmarks/compiled.py [--policies tiny-libero,PACK] [--chunks 20]
    python benchmarks/compiled.py --arch pi05_libero --policies float,full --chunks 3

Every policy runs three times in a process of its own: eager, compiled with an empty cache, and compiled with the cache
that this left. A process is ready when its first chunk is there; to make up the weights of an `--arch` does not count.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import tyro
from common.results import isa, stamp

from vlapack.bench.race import race, started
from vlapack.bench.worker import BenchTask
from vlapack.console import say
from vlapack.machine.cpu import describe_machine
from vlapack.ops import engine
from vlapack.pi0.compiled import CACHE_VARIABLE

RESULTS = Path(__file__).parent / "results"


def main(
    policies: str = "tiny-libero",
    *,
    arch: str | None = None,
    dtype: str = "float32",
    config: str | None = None,
    chunks: int = 20,
    threads: int = 2,
    result: Path | None = None,
) -> None:
    """Measure, and add the rows to what the result has of other policies.

    Args:
        policies: Folders or tiny-libero, with commas; with `arch`, float or a preset.
        arch: The configuration of which random weights are made.
        dtype: Of the float arithmetic.
        config: Of a float folder that does not say it.
        chunks: Of each that count.
        threads: How many work.
        result: The JSON file. Default: benchmarks/results/compiled-<isa>.json.
    """
    place = result or RESULTS / f"compiled-{isa()}.json"
    document = json.loads(place.read_text()) if place.exists() else {}
    rows = {(row["policy"], row["dtype"]): row for row in document.get("rows", [])}
    for policy in policies.split(","):
        name = Path(policy).name if arch is None else f"{arch} {policy}"
        rows[name, dtype] = {"policy": name, "dtype": dtype} | _measured(
            BenchTask(policy, arch=arch, dtype=dtype, config=config, threads=threads), chunks
        )
    document = {
        "question": "What does --compile cost, and what does it gain?",
        "cpu": describe_machine()["cpu"],
        "isa": isa(),
        "engine": engine.described(),
        "threads": threads,
        **stamp(),
        "rows": list(rows.values()),
    }
    place.write_text(json.dumps(document, indent=1) + "\n")


def _measured(task: BenchTask, chunks: int) -> dict[str, Any]:
    """Seconds until the first chunk is there, and milliseconds of the later ones, of three processes."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for how in ("eager", "first", "second"):
            say(f"{task.target}: {how}")
            task = BenchTask(**{**vars(task), "compile": how != "eager"})
            with started({how: ["env", f"{CACHE_VARIABLE}={cache}", *task.command()]}) as (runner,):
                race([runner], chunks)
                row = runner.result()
            found[how] = {
                "ready_seconds": (row["load_seconds"] if task.arch is None else 0.0) + row["first_chunk_ms"] / 1e3,
                "ms_per_chunk": row["ms_per_chunk"],
            }
    return found


if __name__ == "__main__":
    tyro.cli(main)
