"""Correctness comes first: every kernel against the reference on this card. A new op is a line in some `CHECKS`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from gpu.card import Card

MODULES = ("check_products", "check_steps", "check_graph")
"""Each has `CHECKS`: what is checked → a function of a `checks.Place` that raises `WrongError`."""

Check = Callable[[Any], None]


def checks() -> Mapping[str, Check]:
    """Return every check by its name.

    Raises:
        ImportError: Triton is not here.
    """
    found: dict[str, Check] = {}
    for module in MODULES:
        found |= importlib.import_module(f"gpu.{module}").CHECKS
    return found


@torch.no_grad()
def verdict(card: Card, check: Check) -> dict[str, str]:
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
        first = str(error).strip().partition("\n")[0]
        return {"status": "failed", "reason": f"{type(error).__name__}: {first:.300}"}
    return {"status": "right"}
