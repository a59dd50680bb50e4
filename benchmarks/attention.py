"""How fast is attention at π0.5's shapes against torch's, and how far is it from float64?

    python benchmarks/attention.py [--threads 1,2] [--seconds 0.5]

Ours lays keys and values out in every call. torch's two ways are two products with a softmax between them, which is
what defines the op, and its fused kernel. They take turns on the same tensors (common/turns.py). Cold: each call takes
the next of several sets of queries, keys and values, more than 64 MB of them. Warm: all calls take the same. Beside the
median there is the least processor time of a call: with one thread it says what a call takes on a machine that others
use, too. Errors are those of the results in bf16 against float64, over the root mean square of the exact result;
queries are drawn so that logits have a standard deviation of 3. The result goes into results/attention-<isa>.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import torch
import tyro
from common.results import stamp
from common.turns import Run, take_turns
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vlapack.console import say
from vlapack.errors import InputError
from vlapack.ops import attention_reference, cpu_attention, engine

COLD = 64 << 20
"""Bytes that a cold contender walks through."""
LOGITS = 3.0
RESULTS = Path(__file__).parent / "results"


class Shape(NamedTuple):
    """Which attention of a chunk: queries are [1, groups, rows, width], keys and values [1, groups, keys, width]."""

    part: str
    groups: int
    rows: int
    keys: int
    width: int


SHAPES = (
    Shape("vision, 2 cameras", 32, 256, 256, 72),
    Shape("vision, 3 cameras", 48, 256, 256, 72),
    Shape("prefix", 1, 534 * 8, 534, 256),
    Shape("prefix", 1, 968 * 8, 968, 256),
    Shape("denoise", 1, 80, 544, 256),
    Shape("denoise", 1, 80, 978, 256),
    Shape("denoise", 1, 400, 584, 256),
    Shape("denoise", 1, 400, 1018, 256),
)


WAYS = {
    "cpu": cpu_attention.attend,
    "torch products": attention_reference.attend,
    "torch fused": scaled_dot_product_attention,
}


def main(threads: str = "1,2", seconds: float = 0.5, result: Path | None = None) -> None:
    """Measure.

    Args:
        threads: How many, one after the other.
        seconds: For each contender at each shape; at least two turns.
        result: The JSON file.
    """
    if engine.kernels is None:
        raise InputError(f"the compiled engine is not installed; {engine.REMEDY}")
    say(engine.described())
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        errors = _errors(shape)
        for count in map(int, threads.split(",")):
            torch.set_num_threads(count)
            for cold in (True, False):
                rows.append(
                    {**shape._asdict(), "threads": count, "cold": cold, **_times(shape, cold, seconds), **errors}
                )
                times = ", ".join(f"{way} {1e3 * rows[-1][way]['seconds']:.3g}" for way in WAYS)
                say(f"{shape}, {count} threads, {'cold' if cold else 'warm'}: {times} ms")
    document = {
        "isa": engine.kernels.isa(),
        "forced": engine.kernels.isa() != engine.kernels.available()[0],
        **stamp(),
        "rows": rows,
    }
    target = result or RESULTS / f"attention-{engine.kernels.isa()}.json"
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _draw(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as products leave them: heads side by side, token by token."""
    tensors = (torch.randn(1, count, shape.groups, shape.width) for count in (shape.rows, shape.keys, shape.keys))
    query, key, value = (one.bfloat16().transpose(1, 2) for one in tensors)
    return query * LOGITS, key, value


def _times(shape: Shape, cold: bool, seconds: float) -> dict[str, dict[str, float]]:
    first = _draw(shape)
    count = COLD // sum(one.nbytes for one in first) + 1 if cold else 1
    sets = [first, *(tuple(one.clone() for one in first) for _ in range(1, count))]

    def run(way: Any) -> Run:
        return lambda call: way(*sets[call % count])

    medians, processor = take_turns({name: run(way) for name, way in WAYS.items()}, seconds)
    return {name: {"seconds": medians[name], "processor_seconds": processor[name]} for name in WAYS}


def _errors(shape: Shape) -> dict[str, dict[str, float]]:
    query, key, value = _draw(shape)
    query = query[:, :, : 4096 // shape.groups]
    exact = scaled_dot_product_attention(query.double(), key.double(), value.double())
    size = exact.square().mean().sqrt()
    found = {name: way(query, key, value).double() for name, way in WAYS.items()}
    differences = {f"{name} from float64": one - exact for name, one in found.items()}
    differences["cpu from torch products"] = found["cpu"] - found["torch products"]
    return {
        name: {"largest": float(one.abs().max() / size), "mean": float(one.abs().mean() / size)}
        for name, one in differences.items()
    }


if __name__ == "__main__":
    tyro.cli(main)
