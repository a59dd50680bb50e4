"""vlapack: π0 / π0.5 policies with weights that are really 4 bits, on integer arithmetic, proven in closed loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlapack.quantize.inplace import quantize_

__version__ = "0.1.0"
__all__ = ["__version__", "quantize_"]


def __getattr__(name: str) -> Any:
    """Import torch only for those who use it: `vlapack --help` does not."""
    if name == "quantize_":
        from vlapack.quantize.inplace import quantize_

        return quantize_
    raise AttributeError(f"module 'vlapack' has no attribute {name!r}")
