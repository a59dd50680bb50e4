"""vlapack: π0 / π0.5 policies with weights that are really 4 bits, on integer arithmetic, proven in closed loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlapack.machine.waiting import let_waiting_threads_sleep
from vlapack.quantize.registering import register_with_transformers

if TYPE_CHECKING:
    from vlapack.checkpoints import open_checkpoint
    from vlapack.checkpoints.base import Checkpoint
    from vlapack.checkpoints.module import load_, save
    from vlapack.packing.make import make_pack
    from vlapack.policy.policy import Policy
    from vlapack.quantize.inplace import quantize_
    from vlapack.recipe.recipe import Recipe

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "Policy",
    "Recipe",
    "__version__",
    "load_",
    "make_pack",
    "open_checkpoint",
    "quantize_",
    "save",
]

# Where each name is from. Torch takes seconds to import, so nothing is imported before it is asked for.
_HOMES = {
    "Checkpoint": "vlapack.checkpoints.base",
    "Policy": "vlapack.policy.policy",
    "Recipe": "vlapack.recipe.recipe",
    "load_": "vlapack.checkpoints.module",
    "make_pack": "vlapack.packing.make",
    "open_checkpoint": "vlapack.checkpoints",
    "quantize_": "vlapack.quantize.inplace",
    "save": "vlapack.checkpoints.module",
}

let_waiting_threads_sleep()
register_with_transformers()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlapack' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted(__all__)
