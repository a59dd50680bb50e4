"""The kernel that rotates by dense blocks, for rotations that are no Hadamard: `svd`, `svd_hadamard`, `greedy`.

A program multiplies some rows' channels of one block. The results go to memory in fp32, and `rows` takes them up from
there: a launch more than a Hadamard costs, but neither the block nor the row has to fit into registers, and rows share
what they read of the blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vlapack.ops.triton.numeric import div_rn, dot, narrowed
from vlapack.ops.triton.specimen import Specimen

ROWS = 32
"""Rows of one program."""
NARROW, WIDE = 16, 32
"""Channels of a block that one program makes, and multiplies at a time: for blocks up to 16, and for larger ones."""


@triton.jit(do_not_specialize=["rows"])
def blocks_kernel(
    x_ptr, x_stride, smooth_ptr, permutation_ptr, blocks_ptr, block_stride, y_ptr, rows, channels, block,
    ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """y = x T for the steps smooth, permute, rotate by dense blocks.

    Args:
        x_ptr: [M, K] floating, and its row stride
        smooth_ptr: [K] fp32 or None
        permutation_ptr: [K] integers or None
        blocks_ptr: [1 or K/B, B, B] fp32; a stride of 0 is for the one that all share
        y_ptr: [M, K] floating
        rows: M
        channels: K
        block: B
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    column = tl.program_id(2) * TILE + tl.arange(0, TILE)
    exists = (row < rows)[:, None]
    wanted = (column < block)[None, :]
    row = row.to(tl.int64)[:, None]
    blocks_ptr += group * block_stride
    y = tl.zeros((ROWS, TILE), tl.float32)
    for first in range(0, block, TILE):
        inner = first + tl.arange(0, TILE)
        inside = inner < block
        source = group * block + inner
        if permutation_ptr is not None:
            source = tl.load(permutation_ptr + source, mask=inside, other=0).to(tl.int32)
        x = tl.load(x_ptr + row * x_stride + source[None, :], mask=exists & inside[None, :], other=0.0).to(tl.float32)
        if smooth_ptr is not None:
            x = div_rn(x, tl.load(smooth_ptr + source, mask=inside, other=1.0)[None, :])
        factors = tl.load(
            blocks_ptr + inner[:, None] * block + column[None, :], mask=inside[:, None] & wanted, other=0.0
        )
        y = dot(x, factors, y)
    y = narrowed(y, y_ptr.dtype.element_ty)
    tl.store(y_ptr + row * channels + group * block + column[None, :], y, mask=exists & wanted)


def tile(block: int) -> int:
    """Columns of one program for blocks of B channels."""
    return NARROW if block <= NARROW else WIDE


def specimens() -> list[Specimen]:
    """The guide's blocks of 16, one for each group, and 64 channels by a shared one."""
    return [_specimen("16", {"x_ptr": "*bf16", "permutation_ptr": "*u16"}), _specimen("64", {"x_ptr": "*fp32"})]


def _specimen(block: str, pointers: dict[str, str]) -> Specimen:
    optional = {"smooth_ptr": None, "permutation_ptr": None}
    numbers = ("x_stride", "block_stride", "rows", "channels", "block")
    return Specimen(
        kernel=blocks_kernel,
        name=f"activation blocks of {block}",
        signature={"blocks_ptr": "*fp32", "y_ptr": "*fp32", **dict.fromkeys(numbers, "i32"), **pointers},
        constexprs={
            **{name: None for name in optional if name not in pointers},
            "ROWS": ROWS,
            "TILE": tile(int(block)),
        },
        num_stages=1,
    )
