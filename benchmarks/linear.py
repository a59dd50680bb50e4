"""How fast is one packed linear at π0.5's shapes, against torch's linears and against what the machine can do at all?

    python benchmarks/linear.py [--rows 10,544] [--seconds 0.3]

The contenders take turns on the same shape, so that whatever else the machine does meets all of them alike. Each takes
the next of several weights, more than 64 MB of them, so that none is in a cache when its turn comes. The ceilings are
of the same run and the best of several: the product's instructions on registers alone, and a read of memory. Otherwise
medians count. The result also has the least processor time of a call: with one thread (`OMP_NUM_THREADS=1`) it says
what a call takes on a machine that others use, too. The contenders `cpu, groups of G` are our product with a weight
scale for every G input channels. The result goes into results/linear-<isa>.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import torch
import tyro
from common.results import stamp
from common.turns import Run, take_turns
from torch import Tensor
from torch.nn.functional import linear

from vlapack.console import say
from vlapack.errors import InputError
from vlapack.machine.cpu import describe_machine
from vlapack.methods.rotate import hadamard
from vlapack.ops import cpu, engine

SHAPES = (
    (2048, 2048),
    (2048, 256),
    (2048, 16384),
    (16384, 2048),
    (1024, 2560),
    (2048, 1024),
    (1024, 4096),
    (4096, 1024),
    (1152, 1152),
    (1152, 4304),
    (4304, 1152),
)
"""(K, N) of the LLM's, the expert's (its q, k and v as one) and the vision tower's linears."""
GROUPS = (128, 64, 32)
COLD = 64 << 20
"""Bytes of weights that a contender walks through."""
RESULTS = Path(__file__).parent / "results"


def main(
    rows: str = "1,10,50,256,544,968", seconds: float = 0.3, result: Path | None = None, against: str = ""
) -> None:
    """Measure.

    Args:
        rows: The M's.
        seconds: For each contender at each shape; at least three times.
        result: The JSON file.
        against: Another instruction set of this CPU that takes turns with the one in use, `avx512vnni`.
    """
    if engine.kernels is None:
        raise InputError(f"the compiled engine is not installed; {engine.REMEDY}")
    threads, isa = torch.get_num_threads(), engine.described()
    stream, peak = _stream(threads), _peak(threads)
    say(f"{isa}, {threads} threads: {peak / 1e9:.0f} GOP/s on registers, {stream / 1e9:.1f} GB/s read")
    table = []
    for count in map(int, rows.split(",")):
        for inputs, outputs in SHAPES:
            found = _product_rows(count, inputs, outputs, seconds=seconds, peak=peak, stream=stream, against=against)
            table += found
            times = ", ".join(f"{row['engine']} {row['seconds'] * 1e3:.2f}" for row in found)
            ours = found[0]
            say(
                f"M={count} K={inputs} N={outputs}: {times} ms; {ours['share_of_peak']:.0%} of peak, "
                f"{ours['share_of_stream']:.0%} of stream, {ours['vs_float']:.1f} x float"
            )
        table.append(_activation_row(count, 2048, seconds))
    document = {
        "cpu": describe_machine()["cpu"],
        "isa": engine.kernels.isa(),
        "forced": engine.kernels.isa() != engine.kernels.available()[0],
        "threads": threads,
        **stamp(),
        "peak_ops_per_s": peak,
        "stream_bytes_per_s": stream,
        "rows": table,
    }
    target = result or RESULTS / f"linear-{engine.kernels.isa()}.json"
    target.write_text(json.dumps(document, indent=1) + "\n")


def _peak(threads: int) -> float:
    return max(engine.kernels.peak(threads, 200_000) for _ in range(100))


def _stream(threads: int) -> float:
    """Pieces of 32 MB, short enough that one of them is read before anything else gets the core."""
    buffer, piece = torch.ones(256 << 20, dtype=torch.uint8), 32 << 20
    starts = range(buffer.data_ptr(), buffer.data_ptr() + buffer.numel(), piece)
    return max(engine.kernels.stream(start, piece, threads) for _ in range(8) for start in starts)


def _product_rows(
    rows: int, inputs: int, outputs: int, *, seconds: float, peak: float, stream: float, against: str
) -> list[dict[str, Any]]:
    """One result per contender; the first is ours."""
    x = torch.randn(rows, inputs)
    ours = {"cpu": _ours(x, outputs), **{f"cpu, groups of {size}": _ours(x, outputs, size) for size in GROUPS}}
    runs = dict(ours)
    floats = {f"torch {name}": _float(x.to(dtype), outputs) for name, dtype in DTYPES.items()}
    runs |= floats
    if against:
        runs[against] = _by(against, runs["cpu"])
    if rows > 16:  # torch refuses fewer
        runs["torch int8"] = _int8(rows, inputs, outputs)
    medians, processor = take_turns(runs, seconds)
    fastest_float = min(medians[name] for name in floats)
    operations = 2 * rows * inputs * outputs
    return [
        {
            "op": "int_linear" if name in (*ours, against) else "linear",
            "M": rows,
            "K": inputs,
            "N": outputs,
            "cold": True,
            "engine": name,
            "seconds": median,
            "processor_seconds": processor[name],
            "share_of_peak": operations / median / peak if name in ours else None,
            "share_of_stream": inputs * outputs / 2 / median / stream if name in ours else None,
            "vs_float": fastest_float / median,
        }
        for name, median in medians.items()
    ]


def _activation_row(rows: int, inputs: int, seconds: float) -> dict[str, Any]:
    """Permutation, rotation by blocks of 64 and rounding, beside the square product that follows it."""
    x = torch.randn(rows, inputs).bfloat16()
    permutation, blocks = torch.randperm(inputs).to(torch.uint16), hadamard(64).float()
    runs: dict[str, Run] = {
        "step": lambda _: cpu.quantize_activation(x, None, permutation, blocks),
        "product": _ours(x.float(), inputs),
    }
    medians, processor = take_turns(runs, seconds)
    say(f"M={rows} K={inputs}: activation step {medians['step'] / medians['product']:.1%} of the square product")
    return {
        "op": "quantize_activation",
        "M": rows,
        "K": inputs,
        "N": inputs,
        "cold": False,
        "engine": "cpu",
        "seconds": medians["step"],
        "processor_seconds": processor["step"],
        "share_of_product": medians["step"] / medians["product"],
    }


def _ours(x: Tensor, outputs: int, group: int | None = None) -> Run:
    q, s = cpu.quantize_activation(x)
    shape = (-(-outputs // cpu.PANEL), -(-x.shape[1] // 8), 4 * cpu.PANEL)
    weights = _many(lambda: torch.randint(0, 256, shape, dtype=torch.uint8))
    scale = torch.rand(outputs, 1) if group is None else torch.rand(outputs, -(-x.shape[1] // group)).bfloat16()
    scales = [scale.clone() for _ in weights]

    def run(turn: int) -> None:
        turn %= len(weights)
        cpu.int_linear(q, s, weights[turn], scales[turn], dtype=torch.bfloat16, group_size=group)

    return run


def _by(isa: str, run: Run) -> Run:
    """Run with another instruction set."""
    usual = engine.kernels.isa()

    def forced(turn: int) -> None:
        engine.kernels.choose(isa)
        run(turn)
        engine.kernels.choose(usual)

    return forced


def _float(x: Tensor, outputs: int) -> Run:
    weights = _many(lambda: torch.randn(outputs, x.shape[1], dtype=x.dtype))
    return lambda turn: linear(x, weights[turn % len(weights)])


def _int8(rows: int, inputs: int, outputs: int) -> Run:
    q = torch.randint(-127, 128, (rows, inputs), dtype=torch.int8)
    weights = _many(lambda: torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8))
    return lambda turn: torch._int_mm(q, weights[turn % len(weights)].T)


def _many(make: Callable[[], Tensor]) -> list[Tensor]:
    first = make()
    return [first, *(first.clone() for _ in range(COLD // first.nbytes))]


DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

if __name__ == "__main__":
    tyro.cli(main)
