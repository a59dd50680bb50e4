"""Checks the tensors of a product before their addresses go to a kernel, which would read whatever is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn, TypeVar

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.rotate import restore_rows
from vlapack.methods.round import group_count
from vlapack.ops.triton import layout

GROUPS = (32, 64, 128)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

T = TypeVar("T", Tensor, Tensor | None)


@dataclass(frozen=True)
class Product:
    """One product's tensors as the kernels read them: the last dimension contiguous, weights and scales wholly so."""

    inputs: Tensor
    s: Tensor | None
    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    residual: Tensor | None
    bits: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """M, N and K."""
        return self.inputs.shape[0], self.weight.shape[0], self.inputs.shape[1]


def checked(
    inputs: Tensor,
    s: Tensor | None,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    group_size: int | None,
    inputs_dtype: torch.dtype,
) -> Product:
    """Return the tensors ready for a kernel.

    Args:
        inputs: q or x, [M, K] of `inputs_dtype`
        s: [M, 1] fp32, or None where activations are not quantized
        weight: what `layout.prepare` returned
        weight_scale: [N, 1] fp32, or with groups [N, ceil(K / group_size)] bf16
        bias: [N], or None
        residual: [M, N] of `dtype`, or None
        dtype: of the result
        group_size: channels per weight scale, or None
        inputs_dtype: int8 or fp32

    Raises:
        InputError: A tensor has another dtype, shape or device, or a setting that no kernel has.
    """
    if group_size not in (None, *GROUPS):
        refuse(f"groups of {group_size} channels: the triton engine takes {', '.join(map(str, GROUPS))}")
    if dtype not in DTYPES:
        refuse(f"a product in {dtype}: the triton engine returns {', '.join(map(str, DTYPES))}")
    name = "x" if s is None else "q"
    if inputs.dim() != 2 or inputs.dtype != inputs_dtype:
        refuse(f"{name} must be {inputs_dtype} [M, K], not {inputs.dtype} {list(inputs.shape)}")
    tokens, channels = inputs.shape
    if channels > layout.CHANNELS:
        refuse(f"{channels} input channels: the triton engine's sums hold {layout.CHANNELS}")
    bits, outputs = layout.bits_of(weight), len(weight)
    if channels == 0 or inputs.stride(1) != 1 or inputs.stride(0) < 0:
        inputs = inputs.contiguous()
    device = inputs.device
    scale_dtype = torch.float32 if group_size is None else torch.bfloat16
    if bias is not None and not bias.is_floating_point():
        refuse(f"bias must be floating, not {bias.dtype}")
    return Product(
        inputs,
        _checked("s", s, torch.float32, (tokens, 1), device),
        _checked("weight", weight, torch.uint8, layout.prepared_shape(bits, outputs, channels), device),
        _checked("weight_scale", weight_scale, scale_dtype, (outputs, group_count(channels, group_size)), device),
        None if bias is None else _checked("bias", bias, bias.dtype, (outputs,), device),
        _checked("residual", residual, dtype, (tokens, outputs), device),
        bits,
    )


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


def _checked(name: str, tensor: T, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> T:
    """Return `tensor` contiguous, if it has that dtype, shape and device; None stays None."""
    if tensor is None:
        return tensor
    if tensor.dtype != dtype or tensor.shape != shape or tensor.device != device:
        found = f"{tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        raise InputError(f"{name} must be {dtype} {list(shape)} on {device}, not {found}")
    return tensor.contiguous()
