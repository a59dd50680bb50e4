"""The `cpu` engine's half in Python: what checks the tensors of an op and hands their addresses to csrc/.

A weight is rearranged when its layer is made (`prepare`): uint8 [ceil(N / 32), ceil(K / 8), 128] for 4 bits, 256 in
the end for 8, in the order in which the kernels read it (csrc/kernels.hpp). A weight in a pack's own layout is the
reference's (`library`).

Integers are the reference's, and so are the scaled results, bit for bit, except where blocks are rotated: rotations are
fp32 here and float64 there.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.round import group_count, largest_activation
from vlapack.ops.engine import kernels
from vlapack.ops.int4 import PER_WORD

PANEL = 32
INT8_CHANNELS = (1 << 31) // (128 * 128) - 1
"""Above these channels the sum of an 8-bit product may not fit into 32 bits."""

T = TypeVar("T", Tensor, Tensor | None)


def prepare(stored: Tensor, bits: int, in_features: int) -> Tensor:
    """Lay out a pack's weight for the kernels: int32 [N, ceil(K / 8)] of 4 bits, or int8 [N, K] of 8."""
    if bits == 8 and in_features > INT8_CHANNELS:
        raise InputError(
            f"an 8-bit layer of {in_features} input channels: this engine's sums hold {INT8_CHANNELS}; use 4 bits, or "
            "VLAPACK_ENGINE=reference"
        )
    rows = len(stored)
    prepared = torch.empty(prepared_shape(bits, rows, in_features), dtype=torch.uint8)
    source = stored.contiguous()
    kernels.prepare(bits, rows, in_features, source.data_ptr(), prepared.data_ptr(), torch.get_num_threads())
    return prepared


def restore(prepared: Tensor, out_features: int, in_features: int) -> Tensor:
    """Return the weight that `prepare` was given."""
    bits = bits_of(prepared)
    columns, dtype = (-(-in_features // PER_WORD), torch.int32) if bits == 4 else (in_features, torch.int8)
    stored = torch.empty(out_features, columns, dtype=dtype)
    kernels.restore(bits, out_features, in_features, prepared.data_ptr(), stored.data_ptr())
    return stored


def transform_activation(
    x: Tensor,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    pre_rotation: Tensor | None = None,
) -> Tensor:
    """See `reference.transform_activation`."""
    y = torch.empty(x.shape, dtype=torch.float32)
    _activate(x, smooth, permutation, rotation, pre_rotation, out=y)
    return y


def quantize_activation(  # noqa: PLR0917 - torch's custom ops take tensors by position
    x: Tensor,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
    bits: int = 8,
    pre_rotation: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See `reference.quantize_activation`."""
    q = torch.empty(x.shape, dtype=torch.int8)
    s = torch.empty(len(x), 1, dtype=torch.float32)
    _activate(x, smooth, permutation, rotation, pre_rotation, scale, largest_activation(bits), q=q, s=s)
    return q, s


def int_linear(  # noqa: PLR0917 - torch's custom ops take tensors by position
    q: Tensor,
    s: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    row_rotation: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    group_size: int | None = None,
) -> Tensor:
    """See `reference.int_linear`; `weight` is what `prepare` returned."""
    rows, inputs = q.shape
    outputs, bits = len(weight_scale), bits_of(weight)
    if group_size is not None and (group_size < PER_WORD or group_size % PER_WORD):
        raise InputError(f"groups of {group_size} channels: this engine takes multiples of {PER_WORD}")
    q = checked("q", q, torch.int8, (rows, inputs))
    s = checked("s", s, torch.float32, (rows, 1))
    weight = checked("weight", weight, torch.uint8, prepared_shape(bits, outputs, inputs))
    scale_dtype = torch.float32 if group_size is None else torch.bfloat16
    weight_scale = checked("weight_scale", weight_scale, scale_dtype, (outputs, group_count(inputs, group_size)))
    bias = None if bias is None else checked("bias", bias.float(), torch.float32, (outputs,))
    plain = row_rotation is None
    narrow = dtype == torch.bfloat16 and plain
    y = torch.empty(rows, outputs, dtype=torch.bfloat16 if narrow else torch.float32)
    kernels.linear(
        rows,
        inputs,
        outputs,
        q.data_ptr(),
        s.data_ptr(),
        weight.data_ptr(),
        bits,
        weight_scale.data_ptr(),
        group_size or 0,
        address(bias if plain else None),
        y.data_ptr(),
        narrow,
        torch.get_num_threads(),
    )
    if row_rotation is not None:
        y = _restored(y, row_rotation)
        if bias is not None:
            y += bias
    return y.to(dtype)


def _restored(y: Tensor, row_rotation: Tensor) -> Tensor:
    out = torch.empty_like(y)
    _activate(y, None, None, row_rotation, None, transposed=True, out=out)
    return out


def _activate(  # noqa: PLR0917 - the ops' own order
    x: Tensor,
    smooth: Tensor | None,
    permutation: Tensor | None,
    rotation: Tensor | None,
    pre_rotation: Tensor | None,
    scale: Tensor | None = None,
    largest: int = 1,
    *,
    transposed: bool = False,
    q: Tensor | None = None,
    s: Tensor | None = None,
    out: Tensor | None = None,
) -> None:
    x = matrix("x", x)
    rows, channels = x.shape
    steps = Steps(channels, smooth, permutation, rotation, pre_rotation, transposed=transposed)
    results = Results(scale, largest, q, s, out)
    kernels.activate(rows, channels, source(x), steps.addresses, results.addresses, torch.get_num_threads())


def matrix(name: str, x: Tensor) -> Tensor:
    """Return a floating matrix as kernels read it: fp32 or bf16, each row in one piece.

    Raises:
        InputError: it is none, or not on the CPU.
    """
    if x.dim() != 2 or not x.dtype.is_floating_point:
        raise InputError(f"{name} must be a floating matrix [M, K], not {x.dtype} {list(x.shape)}")
    if x.device.type != "cpu":
        raise InputError(f"{name} is on {x.device}: this engine takes what is on the cpu")
    if x.dtype not in (torch.float32, torch.bfloat16):
        x = x.float()
    return x if x.stride(1) == 1 else x.contiguous()


def source(x: Tensor, other: Tensor | None = None) -> tuple[int, bool, int, int, int]:
    """Addresses and pitches of a matrix, and of one of its dtype and shape that joins it (csrc/module.cpp)."""
    also = (0, 0) if other is None else (other.data_ptr(), other.stride(0))
    return x.data_ptr(), x.dtype == torch.bfloat16, x.stride(0), *also


class Steps:
    """The steps of an activation of K `channels`, checked; arguments as in `reference.quantize_activation`.

    Attributes:
        addresses: as csrc/module.cpp takes them, good as long as this object is.
    """

    def __init__(
        self,
        channels: int,
        smooth: Tensor | None,
        permutation: Tensor | None,
        rotation: Tensor | None,
        pre_rotation: Tensor | None,
        *,
        transposed: bool = False,
    ) -> None:
        """Check them."""
        smooth = checked("smooth", smooth, torch.float32, (channels,))
        rotation, count, size = _blocks("rotation", rotation, channels)
        pre_rotation, pre_count, pre_size = _blocks("pre_rotation", pre_rotation, channels)
        if permutation is not None:
            if permutation.dtype not in (torch.uint16, torch.int32, torch.int64):
                raise InputError(f"permutation must be uint16, int32 or int64, not {permutation.dtype}")
            permutation = checked("permutation", permutation, permutation.dtype, (channels,))
        self._kept = smooth, pre_rotation, permutation, rotation
        self.addresses = (
            address(smooth),
            address(pre_rotation),
            pre_count,
            pre_size,
            address(permutation),
            0 if permutation is None else permutation.itemsize,
            address(rotation),
            count,
            size,
            transposed,
        )


class Results:
    """Where an activation goes: `q` and `s` with what they are rounded by, or `out` (fp32 or bf16).

    Attributes:
        addresses: as in `Steps`.
    """

    def __init__(
        self, scale: Tensor | None, largest: int, q: Tensor | None, s: Tensor | None, out: Tensor | None
    ) -> None:
        """Check the static scale."""
        scale = checked("scale", None if scale is None else scale.reshape(-1), torch.float32, (1,))
        self._kept = scale
        narrow = out is not None and out.dtype == torch.bfloat16
        self.addresses = address(scale), largest, address(q), address(s), address(out), narrow


def _blocks(name: str, blocks: Tensor | None, channels: int) -> tuple[Tensor | None, int, int]:
    if blocks is None:
        return None, 0, 0
    if blocks.dim() != 3 or not blocks.shape[1] or channels % blocks.shape[1]:
        raise InputError(
            f"{name} {list(blocks.shape)} of {channels} channels: it must be [1 or K/B, B, B], B dividing K"
        )
    count, size = blocks.shape[:2]
    shape = (count if count == 1 else channels // size, size, size)
    return checked(name, blocks, torch.float32, shape), count, size


def checked(name: str, tensor: T, dtype: torch.dtype, shape: tuple[int, ...]) -> T:
    """Return `tensor` contiguous, if it is one on the CPU of that dtype and shape; None stays None."""
    if tensor is None:
        return tensor
    if tensor.dtype != dtype or tensor.shape != shape or tensor.device.type != "cpu":
        found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        raise InputError(f"{name} must be {dtype} {list(shape)} on cpu, not {found}")
    return tensor.contiguous()


def prepared_shape(bits: int, rows: int, channels: int) -> tuple[int, int, int]:
    """Return the shape, uint8, of a prepared weight [rows, channels]."""
    return -(-rows // PANEL), -(-channels // PER_WORD), PANEL * bits


def bits_of(prepared: Tensor) -> int:
    """Return the bits of a prepared weight."""
    if prepared.dim() != 3 or prepared.shape[2] not in (4 * PANEL, 8 * PANEL):
        raise InputError(
            f"a prepared weight is uint8 [ceil(N / 32), ceil(K / 8), 128 or 256], not {list(prepared.shape)}"
        )
    return prepared.shape[2] // PANEL


def address(tensor: Tensor | None) -> int:
    """Where a tensor begins; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()
