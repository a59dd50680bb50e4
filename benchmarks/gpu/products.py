"""One product at one of the network's shapes: ours on 4- and 8-bit weights, torch's on bf16 and on int8.

*Warm*, a product finds its weight in the card's cache. *Cold*, a buffer four times as large as the cache is written
before each run, as the rest of the network does between two runs of a layer; what writing takes alone is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from gate.floors import PROMPT, Call
from torch import Tensor
from torch.nn.functional import linear

from gpu.card import Card
from gpu.ceilings import roofline
from gpu.timing import INNER, PRODUCT, in_graph, measured
from vlapack.ops import layouts, library
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.names import linears
from vlapack.plan.selected import part_of

CACHES = 4
FEWEST_ROWS = 32
"""Of torch's int8 product, which refuses 16 and fewer: they are filled up, as its callers must."""
HORIZONS = (10, 50)


class Shape(NamedTuple):
    """A product [M, N] over K, and the part of the network that has it."""

    part: str
    m: int
    n: int
    k: int

    @property
    def name(self) -> str:
        """What results call it."""
        return f"{self.part} {self.m}x{self.n}x{self.k}"


def shapes(config: Pi0Config) -> list[Shape]:
    """Return each shape once: the expert's for both horizons, the language model's for 2 cameras, vision's for 3."""
    patches = config.vision.num_patches
    rows = {"expert": HORIZONS, "llm": (2 * patches + PROMPT,), "vision": (3 * patches,)}
    found = {
        Shape(part, m, n, k): None
        for name, (n, k) in linears(config).items()
        for part in (part_of(name),)
        for m in rows.get(part, ())
    }
    return sorted(found, key=lambda shape: (list(rows).index(shape.part), shape.m))


def measure(card: Card, shape: Shape, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Measure all four at one shape; milliseconds."""
    capture = card.capturing()
    buffer = torch.zeros(CACHES * card.describe()["cache_bytes"] // 4, device=card.device)
    writing = in_graph(capture, lambda: buffer.fill_(1.0))
    found: dict[str, Any] = {}
    for name, run in contenders(card, shape):
        warm, cold = in_graph(capture, run), in_graph(capture, lambda: buffer.fill_(1.0), run)

        def once(warm: Any = warm, cold: Any = cold) -> dict[str, float]:
            warm.replay()  # while it runs, what follows is queued: no launch is waited for
            marks = [card.mark()]
            for captured in (warm, writing, cold):
                captured.replay()
                marks.append(card.mark())
            card.synchronize()
            first, second, third = (card.elapsed(*pair) / INNER for pair in pairwise(marks))
            return {"warm": first, "cold": third - second}

        found[name] = measured(card, once, PRODUCT)
    least = roofline(ceilings)
    return {
        "sizes": {"m": shape.m, "n": shape.n, "k": shape.k},
        "contenders": found,
        "floor_ms": {name: 1e3 * _call(shape, name).seconds(least) for name in found},
    }


def _call(shape: Shape, contender: str) -> Call:
    """What a contender must read and compute; scales and activations are small beside the weight."""
    bits = {"W4A8": 4, "W8A8": 8, "F.linear bf16": 16, "torch._int_mm": 8}[contender]
    return Call(2 * shape.m * shape.n * shape.k, shape.n * shape.k * bits / 8, bits < 16)


def contenders(card: Card, shape: Shape) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Yield each contender's name and a run of it on random numbers."""
    _, m, n, k = shape
    device = card.device
    draw = torch.Generator(device).manual_seed(0)
    q = torch.randint(-127, 128, (m, k), dtype=torch.int8, device=device, generator=draw)
    s, scale = torch.ones(m, 1, device=device), torch.full((n, 1), 1e-4, device=device)
    for bits, dtype, columns in ((4, torch.int32, -(-k // 8)), (8, torch.int8, k)):
        info = torch.iinfo(dtype)
        stored = torch.randint(info.min, info.max, (n, columns), dtype=dtype, device=device, generator=draw)
        prepared = layouts.prepare(stored, bits, k, act_bits=8)
        weight = stored if prepared is None else prepared
        yield f"W{bits}A8", lambda w=weight: library.int_linear(q, s, w, scale, None, None, dtype=torch.bfloat16)
    x = torch.randn(m, k, device=device, generator=draw).bfloat16()
    floats = torch.randn(n, k, device=device, generator=draw).bfloat16()
    yield "F.linear bf16", lambda: linear(x, floats)
    filled = torch.zeros(max(m, FEWEST_ROWS), k, dtype=torch.int8, device=device)
    filled[:m] = q
    integers = torch.randint(-127, 128, (n, k), dtype=torch.int8, device=device, generator=draw)
    yield "torch._int_mm", lambda: torch._int_mm(filled, integers.T)
