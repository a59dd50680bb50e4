"""The names under which wrappers store a policy's tensors, and openpi's names behind them."""

from __future__ import annotations

# What wrapped the network when it was saved, and is not part of it; torch.compile's stands at any depth.
WRAPPERS = {"module.": "DistributedDataParallel", "_orig_mod.": "torch.compile"}

LEROBOT_PREFIX = "model."
"""What LeRobot's policies call the network that they hold."""


def wrappers_of(name: str) -> list[str]:
    """Return what wrapped the module of a tensor, from the outside in; see `WRAPPERS`."""
    return [f"{part}." for part in name.split(".")[:-1] if f"{part}." in WRAPPERS]


def without_wrappers(name: str) -> str:
    """Return a tensor's name as the network itself gives it."""
    *modules, tensor = name.split(".")
    return ".".join((*(module for module in modules if f"{module}." not in WRAPPERS), tensor))


def plain_name(name: str) -> str:
    """Return a tensor's name without wrappers and without what LeRobot's policies put before it."""
    name = without_wrappers(name)
    while name.startswith(LEROBOT_PREFIX):
        name = name.removeprefix(LEROBOT_PREFIX)
    return name
