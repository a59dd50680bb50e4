"""`make bench-gpu`: measure this card.

    make bench-gpu                          # under ten minutes on a desktop card
    make bench-gpu BENCH_GPU_ARGS=--all     # the whole grid; goes on where it stopped
    PYTHONPATH=src:benchmarks python -m gpu --json out.json --only correct

Progress goes to stderr, results to `benchmarks/results/gpu-<card>.json`. Exit code: 0, 1 for a wrong integer or a card
that fails, 2 for what cannot be used.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

DRY = os.environ.get("VLAPACK_BENCH_DRY") == "1"
if DRY:
    os.environ["TRITON_INTERPRET"] = "1"  # which Triton reads when it is imported

from gpu.card import Card, CudaCard  # noqa: E402
from gpu.dry import DryCard  # noqa: E402
from gpu.record import ROOT, Record, file_for  # noqa: E402
from gpu.run import PARTS, Bench, Options  # noqa: E402
from vlapack.console import exit_code, say  # noqa: E402
from vlapack.errors import InputError  # noqa: E402
from vlapack.machine.gpu import find_device  # noqa: E402
from vlapack.ops import engine  # noqa: E402


def main(arguments: list[str]) -> int:
    """Parse, and run."""
    parser = argparse.ArgumentParser(prog="make bench-gpu", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="the whole grid of chunks, an hour")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; correctness always comes first")
    parser.add_argument("--again", action="store_true", help="measure what an earlier run has measured, too")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1")
    parser.add_argument("--json", type=Path, help="where results go")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no cell after so many")
    given = parser.parse_args(arguments)
    file = given.json
    if DRY and file is None:
        file = Path(tempfile.gettempdir()) / "vlapack-gpu-dry.json"
    bench = Bench(_card(given.device), Options(given.only or PARTS, given.all, given.again, given.seconds, file))
    code = bench.run()
    _thanks(bench.record)
    return code


def _card(device: str) -> Card:
    if DRY:
        return DryCard()
    found = find_device(device)
    if found.type != "cuda":
        raise InputError(f"`device={device!r}`: this measures GPUs; give cuda, or set VLAPACK_BENCH_DRY=1")
    if (name := engine.active(found)) != "triton":
        raise InputError(f"{engine.ENGINE_VARIABLE}={name}: this measures the engine triton; unset the variable")
    return CudaCard(found)


def _thanks(record: Record) -> None:
    if DRY:
        say(f"a dry run: no figure in {record.file} means anything")
        return
    place = file_for(record.document["card"])
    say(f"done: {record.file}. Others with this card want to know: please send it,")
    say(f"as a pull request that adds it as {place.relative_to(ROOT)} (`make docs` then writes docs/gpu.md),")
    say("or attached to a new issue of the project.")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
