"""Where the GPU kernels come from: Triton compiles them, or they are shipped. Chosen by `VLAPACK_KERNELS`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vlapack.errors import InputError

KERNELS_VARIABLE = "VLAPACK_KERNELS"
TCGEN05 = "tcgen05"


@dataclass(frozen=True)
class Shipped:
    """Shipped kernels.

    Attributes:
        tensor_memory: whether integer products use tcgen05 instructions, which Triton does not give to Thor.
    """

    tensor_memory: bool = False

    def __str__(self) -> str:
        return f"cubin:{TCGEN05}" if self.tensor_memory else "cubin"

    def archives(self, architecture: str) -> tuple[str, ...]:
        """Return the archives to look in for a card's code, the first one first."""
        return (f"{architecture}-{TCGEN05}", architecture) if self.tensor_memory else (architecture,)


_VALUES = {"": None, "triton": None, **{str(choice): choice for choice in (Shipped(), Shipped(tensor_memory=True))}}


def shipped() -> Shipped | None:
    """Return which shipped kernels `VLAPACK_KERNELS` asks for; None: Triton compiles them.

    Raises:
        InputError: the variable has another value.
    """
    value = os.environ.get(KERNELS_VARIABLE, "")
    if value not in _VALUES:
        known = ", ".join(name for name in _VALUES if name)
        raise InputError(f"{KERNELS_VARIABLE}={value}: no such kernels; there are {known} (or unset it)")
    return _VALUES[value]
