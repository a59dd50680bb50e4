"""The activation step of the `triton` engine: transform the rows of an input and round them to integers.

Integers and scales are the reference's. With a rotation, which is fp32 here and float64 there, an integer may differ by
one where the reference is within 1e-3 of a half.

Hadamard blocks, or none, take one launch. Dense blocks are a launch of their own (`blocks`), and so is a first
rotation, since the permutation after it needs all of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import triton
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.round import largest_activation
from vlapack.ops.triton import blocks, rows
from vlapack.ops.triton.known import check_permutation, is_hadamard

FLOATS = (torch.float32, torch.bfloat16, torch.float16)

T = TypeVar("T", Tensor, Tensor | None)


@dataclass(frozen=True)
class Steps:
    """What happens to a row on its way to integers; the tensors of an `ActivationStep`.

    Attributes:
        smooth: [K] fp32 or None.
        permutation: [K] uint16, int32 or int64, or None.
        rotation: [1 or K/B, B, B] fp32 or None.
        scale: The static step [1] fp32, or None: each row's own.
        bits: 8 or 4.
        pre_rotation: Blocks like `rotation`, before the permutation.
    """

    smooth: Tensor | None = None
    permutation: Tensor | None = None
    rotation: Tensor | None = None
    scale: Tensor | None = None
    bits: int = 8
    pre_rotation: Tensor | None = None

    def checked(self, channels: int, device: torch.device) -> Steps:
        """Return them contiguous.

        Raises:
            InputError: A tensor has a shape or dtype that its name does not allow, or is elsewhere.
        """
        permutation = self.permutation
        if permutation is not None:
            if permutation.dtype not in (torch.uint16, torch.int32, torch.int64):
                raise InputError(f"permutation must be uint16, int32 or int64, not {permutation.dtype}")
            permutation = checked("permutation", permutation, permutation.dtype, (channels,), device)
            check_permutation(permutation)
        scale = None if self.scale is None else self.scale.reshape(-1)
        return Steps(
            checked("smooth", self.smooth, torch.float32, (channels,), device),
            permutation,
            _blocks("rotation", self.rotation, channels, device),
            checked("scale", scale, torch.float32, (1,), device),
            self.bits,
            _blocks("pre_rotation", self.pre_rotation, channels, device),
        )


@dataclass(frozen=True)
class Source:
    """Where rows come from; see `rows` for the kinds and what they read.

    Attributes:
        kind: A `SOURCE` of `rows_kernel`.
        x: [M, K] floating.
        second: [M, K] or None.
        gate: [M / tokens or 1, K] or None.
        weight: [K], or [M / tokens or 1, K]; or None.
        shift: Like `weight`.
        stream: [M, K], where the new residual stream goes; or None.
        tokens: Rows that share a gate, a weight and a shift.
        eps: The norm's.
    """

    kind: str
    x: Tensor
    second: Tensor | None = None
    gate: Tensor | None = None
    weight: Tensor | None = None
    shift: Tensor | None = None
    stream: Tensor | None = None
    tokens: int = 1
    eps: float = 0.0


def transform_activation(
    x: Tensor,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    pre_rotation: Tensor | None = None,
) -> Tensor:
    """See `reference.transform_activation`."""
    x = matrix("x", x)
    steps = Steps(smooth, permutation, rotation, pre_rotation=pre_rotation).checked(x.shape[1], x.device)
    return _transformed(Source("plain", x), steps, torch.float32)


def quantize_activation(
    x: Tensor,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
    bits: int = 8,
    pre_rotation: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `reference.quantize_activation`."""
    x = matrix("x", x)
    steps = Steps(smooth, permutation, rotation, scale, bits, pre_rotation).checked(x.shape[1], x.device)
    return quantized(Source("plain", x), steps)


def quantized(source: Source, steps: Steps) -> tuple[Tensor, Tensor]:
    """Return q [M, K] int8 and s [M, 1] fp32 of the rows that come from `source`, after checked `steps`."""
    if steps.pre_rotation is not None or _is_dense(steps.rotation):
        source = Source("plain", _transformed(source, steps, torch.float32))
        steps = Steps(scale=steps.scale, bits=steps.bits)
    q = torch.empty(source.x.shape, dtype=torch.int8, device=source.x.device)
    s = torch.empty(len(q), 1, dtype=torch.float32, device=q.device)
    _launch_rows(source, steps, q=q, s=s)
    return q, s


def _transformed(source: Source, steps: Steps, dtype: torch.dtype) -> Tensor:
    """Return the rows that come from `source` after `steps`, and before they are rounded to integers, in `dtype`."""
    if steps.pre_rotation is not None:
        source = Source("plain", _transformed(source, Steps(steps.smooth, None, steps.pre_rotation), torch.float32))
        steps = replace(steps, smooth=None, pre_rotation=None)
    if _is_dense(steps.rotation):
        if source.kind != "plain":
            source = Source("plain", _transformed(source, Steps(), source.x.dtype))
        return _rotated(source.x, steps)
    y = torch.empty(source.x.shape, dtype=dtype, device=source.x.device)
    _launch_rows(source, steps, y=y)
    return y


def _is_dense(rotation: Tensor | None) -> bool:
    return rotation is not None and not is_hadamard(rotation)


def _launch_rows(
    source: Source, steps: Steps, *, q: Tensor | None = None, s: Tensor | None = None, y: Tensor | None = None
) -> None:
    count, channels = source.x.shape
    if not count:
        return
    size = triton.next_power_of_2(channels)
    block = 1 if steps.rotation is None else steps.rotation.shape[1]
    rows.rows_kernel[(count,)](
        source.x,
        source.x.stride(0),
        source.second,
        _row_stride(source.second),
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
        SIZE=size,
        LEVELS=block.bit_length() - 1,
        NORMALIZER=block**-0.5,
        LARGEST=float(largest_activation(steps.bits)),
        EPS=source.eps,
        num_warps=rows.warps(size),
        enable_fp_fusion=False,
    )


def _rotated(x: Tensor, steps: Steps) -> Tensor:
    assert steps.rotation is not None
    count, channels = x.shape
    y = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    if not count:
        return y
    shared, block, _ = steps.rotation.shape
    tile = blocks.tile(block)
    blocks.blocks_kernel[(triton.cdiv(count, blocks.ROWS), channels // block, triton.cdiv(block, tile))](
        x,
        x.stride(0),
        steps.smooth,
        steps.permutation,
        steps.rotation,
        0 if shared == 1 else block * block,
        y,
        count,
        channels,
        block,
        ROWS=blocks.ROWS,
        TILE=tile,
        num_warps=4,
        num_stages=1,
        enable_fp_fusion=False,
    )
    return y


def _row_stride(tensor: Tensor | None) -> int:
    """The elements from row to row; 0 where one row serves all."""
    return 0 if tensor is None or tensor.dim() == 1 or len(tensor) == 1 else tensor.stride(0)


def matrix(name: str, x: Tensor, like: Tensor | None = None) -> Tensor:
    """Return floating `x` [M, K] with neighbouring channels side by side; `like` says which shape and dtype it needs.

    Raises:
        InputError: It is no such matrix, or its rows are wider than the kernel's.
    """
    if like is not None and (x.dtype != like.dtype or x.shape != like.shape or x.device != like.device):
        found = f"{x.dtype} {list(x.shape)} on {x.device}"
        raise InputError(f"{name} must be {like.dtype} {list(like.shape)} on {like.device}, not {found}")
    if x.dim() != 2 or not x.dtype.is_floating_point:
        raise InputError(f"{name} must be a floating matrix [M, K], not {x.dtype} {list(x.shape)}")
    if not 0 < x.shape[1] <= rows.WIDEST:
        raise InputError(f"{name} has rows of {x.shape[1]} channels: this engine takes 1 to {rows.WIDEST}")
    x = x if x.dtype in FLOATS else x.float()
    return x if x.stride(1) == 1 else x.contiguous()


def checked(name: str, tensor: T, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> T:
    """Return `tensor` contiguous, if it is one of that dtype and shape on the device; None stays None."""
    if tensor is None:
        return tensor
    if tensor.dtype != dtype or tensor.shape != shape or tensor.device != device:
        found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        raise InputError(f"{name} must be {dtype} {list(shape)} on {device}, not {found}")
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _blocks(name: str, tensor: Tensor | None, channels: int, device: torch.device) -> Tensor | None:
    if tensor is None:
        return None
    if tensor.dim() != 3 or not tensor.shape[1] or channels % tensor.shape[1]:
        raise InputError(
            f"{name} {list(tensor.shape)} of {channels} channels: it must be [1 or K/B, B, B], B dividing K"
        )
    count, size = tensor.shape[:2]
    shape = (1 if count == 1 else channels // size, size, size)
    return checked(name, tensor, torch.float32, shape, device)
