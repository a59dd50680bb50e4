"""Checks the tensors of a product before their addresses go to a kernel, which would read whatever is there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.rotate import restore_rows
from vlapack.methods.round import group_count
from vlapack.ops.triton import layout
from vlapack.ops.triton.tensors import FLOATS, checked

GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Product:
    """One product's tensors as the kernels read them: the last dimension contiguous, weights and scales wholly so."""

    inputs: Tensor
    weight: Tensor
    bits: int
    s: Tensor | None = None
    weight_scale: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """M, N and K."""
        return self.inputs.shape[0], self.weight.shape[0], self.inputs.shape[1]

    @property
    def scales_of_a_row(self) -> int:
        """How many scales an output's weights have."""
        return 1 if self.weight_scale is None else self.weight_scale.shape[1]


def of_sums(q: Tensor, weight: Tensor) -> Product:
    """Return the tensors of a product that stays unscaled: q [M, K] int8 and what `layout.prepare` returned.

    Raises:
        InputError: a tensor has another dtype, shape or device, or K is too large for 32 bits
    """
    return _multiplied("q", q, weight, torch.int8)


def of_product(
    inputs: Tensor,
    s: Tensor | None,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    group_size: int | None,
) -> Product:
    """Return the tensors ready for a kernel.

    Args:
        inputs: q [M, K] int8, or x [M, K] fp32 if `s` is None
        s: [M, 1] fp32, or None where activations are not quantized
        weight: what `layout.prepare` returned
        weight_scale: [N, 1] fp32, or with groups [N, ceil(K / group_size)] bf16
        bias: [N], or None
        residual: [M, N] of `dtype`, or None
        dtype: of the result
        group_size: channels per weight scale, or None

    Raises:
        InputError: a tensor has another dtype, shape or device, or a setting that no kernel has
    """
    check_group_size(group_size)
    if dtype not in FLOATS:
        refuse(f"a product in {dtype}: the triton engine returns {', '.join(map(str, FLOATS))}")
    unscaled = _multiplied("x", inputs, weight, torch.float32) if s is None else of_sums(inputs, weight)
    device, (tokens, outputs, channels) = inputs.device, unscaled.sizes
    if bias is not None and not bias.is_floating_point():
        refuse(f"bias must be floating, not {bias.dtype}")
    return replace(
        unscaled,
        s=checked("s", s, torch.float32, (tokens, 1), device),
        weight_scale=checked_scale(weight_scale, outputs, channels, group_size, device),
        bias=None if bias is None else checked("bias", bias, bias.dtype, (outputs,), device),
        residual=checked("residual", residual, dtype, (tokens, outputs), device),
    )


def check_group_size(group_size: int | None) -> None:
    """Raise InputError for groups that no kernel has."""
    if group_size not in (None, *GROUPS):
        refuse(f"groups of {group_size} channels: the triton engine takes {', '.join(map(str, GROUPS))}")


def checked_scale(
    weight_scale: Tensor, outputs: int, channels: int, group_size: int | None, device: torch.device
) -> Tensor:
    """Return the scales of a weight [N, K] contiguous; raise InputError if they are not those of `of_product`."""
    dtype = torch.float32 if group_size is None else torch.bfloat16
    return checked("weight_scale", weight_scale, dtype, (outputs, group_count(channels, group_size)), device)


def _multiplied(name: str, inputs: Tensor, weight: Tensor, dtype: torch.dtype) -> Product:
    """Check what a product multiplies."""
    if inputs.dim() != 2 or inputs.dtype != dtype:
        refuse(f"{name} must be {dtype} [M, K], not {inputs.dtype} {list(inputs.shape)}")
    channels = inputs.shape[1]
    if channels > layout.CHANNELS:
        refuse(f"{channels} input channels: the triton engine's sums hold {layout.CHANNELS}")
    bits, outputs = layout.bits_of(weight), len(weight)
    if channels == 0 or inputs.stride(1) != 1 or inputs.stride(0) < 0:
        inputs = inputs.contiguous()
    shape = layout.prepared_shape(bits, outputs, channels)
    return Product(inputs, checked("weight", weight, torch.uint8, shape, inputs.device), bits)


def restored(
    y: Tensor, row_rotation: Tensor, bias: Tensor | None, residual: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """End a product whose rows were rotated, from its scaled sums `y` [M, N] fp32: restore, bias, round, residual.

    In float64, as the reference does it: rotated rows are an option of the guide's recipes, not of ours, and need no
    kernel.
    """
    y = restore_rows(y, row_rotation)
    if bias is not None:
        y = y + bias
    y = y.to(dtype)
    return y if residual is None else y + residual


def refuse(message: str) -> NoReturn:
    """Raise the `InputError` of a product that cannot run."""
    raise InputError(f"{message}; set VLAPACK_ENGINE=reference for anything else")
