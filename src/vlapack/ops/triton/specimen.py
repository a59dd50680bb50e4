"""A kernel as one call would compile it: what is needed to compile it ahead of time, and what its code must show.

Each module of kernels lists its own in `specimens()`. `scripts/compile_kernels.py` compiles them for every card without
one at hand, and reads the machine code: a kernel that spills or misses the tensor cores is wrong though its results
are right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Specimen:
    """One kernel with one choice of its compile-time constants.

    Args:
        kernel: the function under `@triton.jit`
        name: unique among all specimens, for tables and errors, e.g. `product prefill 4-bit 128x128 w8 s3`
        signature: Triton's types of the arguments that are not constants, by name in the kernel's order: `*i8`, `i32`
        constexprs: the compile-time constants by name; an argument that is None is one of them
        num_warps: warps of one program
        num_stages: how many blocks the loop's loads run ahead
        expects: `mma` if the code must use tensor cores for integers or floats, None if it needs none
        bit_operations_bound: most bit operations (LOP3, PRMT, SHF) in the loop that multiplies, for each product of
            16 x 8 x 32 in it, or None: not bounded
        divides_exactly: whether the kernel divides, and must do so rounded correctly rather than by an approximation
        targets: the classes of card that it is meant for, as `sm_80` or `gfx942`; empty: all
    """

    kernel: Any
    name: str
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    expects: Literal["mma"] | None = None
    bit_operations_bound: float | None = None
    divides_exactly: bool = False
    targets: tuple[str, ...] = field(default=())
