"""A whole chunk in captured graphs: its time on the card and with all copies, its memory, its nodes, its floor."""

from __future__ import annotations

import gc
from typing import Any

import torch
from gate.floors import PROMPT, calls

from gpu.card import Card
from gpu.ceilings import chunk_floor
from gpu.inputs import Chunk, NotMeasuredError, chunk_inputs
from gpu.timing import CHUNK, Watched, measured
from vlapack.bench.network import synthetic_network
from vlapack.pi0.buffers import Shape, prompt_slots
from vlapack.pi0.graphs import Runner
from vlapack.pi0.launches import launches


def measure(card: Card, chunk: Chunk, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Build a network on the card, and let it act on one observation again and again.

    `replay` is the card's time from the first graph's begin to the last one's end, `wall` that of the whole call: the
    observation copied there, the actions copied back.

    Raises:
        NotMeasuredError: the network does not fit into the card's memory.
    """
    config = chunk.architecture(dry=card.dry)
    gc.collect()
    card.forget_peak()
    require_room(card, sum(call.weight_bytes for call in calls(config, chunk.recipe)))
    start = card.now()
    model = synthetic_network(config, chunk.recipe, dtype=torch.bfloat16, device=card.device)
    card.synchronize()
    loaded, seconds = card.memory(), card.now() - start
    card.forget_peak()
    watched = Watched(card)
    acting = Runner(model, watched)
    inputs = chunk_inputs(config, cameras=chunk.cameras)

    def once() -> dict[str, float]:
        watched.clear()
        start = card.now()
        acting.sample_actions(*inputs).cpu()
        wall = 1e3 * (card.now() - start)
        replay = watched.milliseconds()
        return {"wall": wall} if replay is None else {"wall": wall, "replay": replay}

    start = card.now()
    once()
    captured = card.now() - start
    times = measured(card, once, CHUNK)
    running, state = card.memory(), card.state()
    shape = Shape(1, chunk.cameras, prompt_slots(PROMPT, config.max_token_len), torch.uint8)
    return {
        "how": acting.how,
        **times,
        "load_seconds": seconds,
        "capture_seconds": captured,
        "memory": {
            "held": loaded["allocated"],
            "loading_peak": loaded["peak"],
            "running_peak": running["peak"],
            "context": running["context"],
        },
        "nodes": {"counted": _counted(card, watched), "on_paper": launches(model, shape).chunk},
        "floor_ms": chunk_floor(chunk, config, ceilings),
        "state": state,
    }


def require_room(card: Card, needed: float) -> None:
    """Refuse what does not fit: on a board that has one memory for both, the system would end this process.

    Raises:
        NotMeasuredError: with the bytes that are needed, and those that are free.
    """
    if needed > (free := card.free()):
        raise NotMeasuredError(f"it needs {needed / 1e9:.2f} GB for weights, and {free / 1e9:.2f} GB are free")


def _counted(card: Card, watched: Watched) -> int | None:
    """Nodes that one chunk replays; None where the system does not tell."""
    nodes = [card.nodes(run) for run, times in zip(watched.runs, watched.replays, strict=True) if times]
    if None in nodes or not nodes:
        return None
    times = [times for times in watched.replays if times]
    return sum(count * often for count, often in zip(nodes, times, strict=True) if count is not None)
