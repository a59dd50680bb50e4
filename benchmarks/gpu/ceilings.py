"""What this card reaches at best, measured, and the least time that follows from it: a roofline of its own."""

from __future__ import annotations

from typing import Any

import torch
from gate.floors import calls
from gate.peaks import Card as Roofline

from gpu.card import Card
from gpu.inputs import Chunk
from gpu.timing import seconds_of
from vlapack.bench.floor import peak
from vlapack.pi0.config import Pi0Config

LARGEST_COPY = 1 << 30
"""Bytes, or a sixteenth of the card's memory: far more than any cache."""
COPIES = 10


def measure(card: Card) -> dict[str, Any]:
    """Measure a card's ceilings: bytes a second of a large copy, operations a second of torch's own large products."""
    int8, how_int8 = _peak(card, None)
    bf16, how_bf16 = _peak(card, torch.bfloat16)
    return {
        "bytes_per_s": _copy(card),
        "int8_ops_per_s": int8,
        "bf16_ops_per_s": bf16,
        "of": {"bytes_per_s": "a copy, read and written", "int8_ops_per_s": how_int8, "bf16_ops_per_s": how_bf16},
        "state": card.state(),
    }


def _peak(card: Card, dtype: torch.dtype | None) -> tuple[float, str]:
    # A dry run's figures mean nothing, and a CPU without bf16 would take ten seconds for them.
    return (1e12, "a dry run") if card.dry else peak(dtype, 1, card.device)


def _copy(card: Card) -> float:
    size = min(LARGEST_COPY, card.describe()["memory_bytes"] // 16)
    source = torch.ones(size // (64 if card.dry else 1), dtype=torch.uint8, device=card.device)
    target = torch.empty_like(source)
    best = min(seconds_of(card, lambda: target.copy_(source)) for _ in range(COPIES))
    return 2 * source.nbytes / best


def roofline(found: dict[str, Any]) -> Roofline:
    """Return measured ceilings as the gate's floors take published ones."""
    return Roofline(
        "measured",
        "",
        int8=found["int8_ops_per_s"] / 1e12,
        bf16=found["bf16_ops_per_s"] / 1e12,
        memory=found["bytes_per_s"] / 1e9,
        source="the same run",
    )


def chunk_floor(chunk: Chunk, architecture: Pi0Config, found: dict[str, Any]) -> float:
    """Return the least milliseconds of a chunk's products at these ceilings; launches come on top."""
    ceilings = roofline(found)
    products = calls(architecture, chunk.recipe, cameras=chunk.cameras)
    return 1e3 * sum(call.seconds(ceilings) for call in products)
