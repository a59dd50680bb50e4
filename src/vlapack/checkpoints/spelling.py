"""The names under which wrappers store a policy's tensors, and openpi's names behind them."""

from __future__ import annotations

from vlapack.checkpoints.weights import Renamed, Weights
from vlapack.errors import InputError

COMPILED = "_orig_mod."
"""What torch.compile puts into the names of a module that it wraps, at any depth."""

PREFIXES = ("module.", "model.")
"""DistributedDataParallel's, and that of LeRobot's policies."""


def plain_name(name: str) -> str:
    """Return a tensor's name without what torch.compile, DistributedDataParallel and LeRobot put around it."""
    name = name.replace(COMPILED, "")
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def plainly_named(weights: Weights) -> Weights:
    """Return the same tensors under openpi's names.

    Raises:
        InputError: two of them would have one name.
    """
    stored: dict[str, str] = {}
    for name in weights.names():
        other = stored.setdefault(plain_name(name), name)
        if other != name:
            raise InputError(f"{weights.path}: holds {other} and {name}, which are one tensor; save the policy again")
    return weights if all(new == old for new, old in stored.items()) else Renamed(weights, stored)
