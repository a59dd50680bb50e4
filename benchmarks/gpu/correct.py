"""Correctness comes first: every kernel against the reference on this card. A new op is a line in some `CHECKS`.

A check compiles a dozen kernels, so several run at a time, in processes of their own: nothing is timed here, and what
an illegal access does to one process the others do not see.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from gpu.card import Card
from vlapack.ops import engine

MODULES = ("check_products", "check_steps", "check_graph")
"""Each has `CHECKS`: what is checked → a function of a `checks.Place` that raises `WrongError`."""
MOST_WORKERS = 8
WORKER_BYTES = 4 << 30
"""Of a card's memory for each process: a context, and a check's tensors."""

Check = Callable[[Any], None]
Verdict = dict[str, str]


def checks() -> Mapping[str, Check]:
    """Return every check by its name.

    Raises:
        ImportError: Triton is not here.
    """
    found: dict[str, Check] = {}
    for module in MODULES:
        found |= importlib.import_module(f"gpu.{module}").CHECKS
    return found


def verdicts(card: Card, found: Mapping[str, Check], names: Sequence[str]) -> Iterator[tuple[str, Verdict]]:
    """Run some of the checks, and yield what each says as soon as it does."""
    workers = workers_for(card, len(names))
    if workers < 2:
        for name in names:
            yield name, verdict(card, found[name])
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(_in_worker, card, name): name for name in names}
        for done in as_completed(running):
            error = done.exception()  # a worker that was ended takes those with it that wait
            yield running[done], done.result() if error is None else _failed(error)


def workers_for(card: Card, count: int) -> int:
    """Return how many processes so many checks are given."""
    room = 1 if card.dry else min((os.cpu_count() or 1) // 2, card.free() // WORKER_BYTES)
    return max(1, min(MOST_WORKERS, room, count))


def _in_worker(card: Card, name: str) -> Verdict:
    if card.device.type == "cuda":
        torch.cuda.set_device(card.device)
        engine.active(card.device)  # before kernels are imported, which may have come without Triton
    return verdict(card, checks()[name])


@torch.no_grad()
def verdict(card: Card, check: Check) -> Verdict:
    """Run one check.

    Returns:
        `status`: `right`, `wrong`, or `failed` where the kernel did not run; with a `reason` if it is not right.
    """
    from gpu.checks import Place, WrongError

    try:
        check(Place.on(card, small=card.dry))
        card.synchronize()
    except WrongError as error:
        return {"status": "wrong", "reason": str(error)}
    except Exception as error:  # whatever a compiler or a driver says: the other checks tell where it ends
        return _failed(error)
    return {"status": "right"}


def _failed(error: BaseException) -> Verdict:
    return {"status": "failed", "reason": said(error)}


def said(error: BaseException) -> str:
    """Return an error in a line."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first:.300}"
