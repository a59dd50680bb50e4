"""Where the rows of an activation step come from, and the launch of the kernel that makes and rounds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from vlapack.methods.round import largest_activation
from vlapack.ops.triton import rows
from vlapack.ops.triton.steps import Steps
from vlapack.ops.triton.sums import NOTHING, STORED, Ending
from vlapack.ops.triton.tensors import matrix


@dataclass(frozen=True)
class Source:
    """Rows [M, K]; see `rows` for the kinds and what they read.

    Attributes:
        kind: a `SOURCE` of `rows_kernel`
        shape: M and K
        dtype: of every rounding
        x: [M, K] of `dtype`; None where `second` is the sums of an MLP's first product
        second: [M, K], or those sums
        gate: [M / tokens or 1, K], or None
        weight: [K], or [M / tokens or 1, K]; or None
        shift: like `weight`, with its strides
        stream: [M, K] of `dtype`, where the new residual stream goes; or None
        tokens: rows that share a gate, a weight and a shift
        eps: the norm's
    """

    kind: str
    shape: tuple[int, int]
    dtype: torch.dtype
    x: Tensor | None = None
    second: Ending | None = None
    gate: Tensor | None = None
    weight: Tensor | None = None
    shift: Tensor | None = None
    stream: Tensor | None = None
    tokens: int = 1
    eps: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        read = self.x if self.second is None else self.second.values
        assert read is not None
        return read.device

    def empty(self, dtype: torch.dtype) -> Tensor:
        """Return room for the rows."""
        return torch.empty(self.shape, dtype=dtype, device=self.device)


def plain(x: Tensor) -> Source:
    """Return the source that is `x` [M, K] floating itself.

    Raises:
        InputError: as in `tensors.matrix`
    """
    x = matrix("x", x)
    return Source("plain", (x.shape[0], x.shape[1]), x.dtype, x)


def launch(
    source: Source, steps: Steps, *, q: Tensor | None = None, s: Tensor | None = None, y: Tensor | None = None
) -> None:
    """Make the rows, and store them after the steps: as integers `q` [M, K] with `s` [M, 1], or unrounded in `y`."""
    count, channels = source.shape
    if not count:
        return
    size = triton.next_power_of_2(channels)
    rows.rows_kernel[(count,)](
        source.x,
        _row_stride(source.x),
        *(NOTHING if source.second is None else source.second.arguments),
        source.gate,
        _row_stride(source.gate),
        source.weight,
        source.shift,
        _row_stride(source.weight),
        source.stream,
        steps.smooth,
        steps.permutation,
        steps.scale,
        q,
        s,
        y,
        channels,
        source.tokens,
        SOURCE=source.kind,
        PARTS=0 if source.second is None else source.second.parts,
        DTYPE=STORED[source.dtype],
        SIZE=size,
        LEVELS=steps.block.bit_length() - 1,
        NORMALIZER=steps.block**-0.5,
        LARGEST=float(largest_activation(steps.bits)),
        EPS=source.eps,
        num_warps=rows.warps(size),
        enable_fp_fusion=False,
    )


def _row_stride(tensor: Tensor | None) -> int:
    """The elements from row to row; 0 where one row serves all."""
    return 0 if tensor is None or tensor.dim() == 1 or len(tensor) == 1 else tensor.stride(0)
