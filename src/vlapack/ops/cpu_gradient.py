"""The `cpu` engine's half of derivatives (`ops.gradient`): checks the tensors and hands their addresses to csrc/.

Products are fp32: weights are widened where they are multiplied (csrc/gradient.cpp). With AVX-512 VNNI and one scale
for each output, gradients are rounded to 16 bits instead, which is off by at most 1e-4 of their norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.round import group_count
from vlapack.ops import cpu, reference
from vlapack.ops.engine import kernels
from vlapack.ops.int4 import PER_WORD


def linear_gradient(
    gradient: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    row_rotation: Tensor | None = None,
    *,
    inputs: int,
    group_size: int | None = None,
) -> Tensor:
    """See `reference.linear_gradient`; `weight` is what `cpu.prepare` returned."""
    outputs, bits = len(weight_scale), cpu.bits_of(weight)
    if group_size is not None and (group_size < PER_WORD or group_size % PER_WORD):
        raise InputError(f"groups of {group_size} channels: this engine takes multiples of {PER_WORD}")
    wide = gradient.float()
    if row_rotation is not None:
        wide = cpu.transform_activation(wide, rotation=row_rotation)
    wide = cpu.checked("gradient", wide, torch.float32, (len(gradient), outputs))
    weight = cpu.checked("weight", weight, torch.uint8, cpu.prepared_shape(bits, outputs, inputs))
    scale_dtype = torch.float32 if group_size is None else torch.bfloat16
    scale = cpu.checked("weight_scale", weight_scale, scale_dtype, (outputs, group_count(inputs, group_size)))
    steps = -(-inputs // PER_WORD)
    found = torch.zeros(len(wide), steps * PER_WORD, dtype=torch.float32)
    kernels.linear_gradient(
        len(wide),
        inputs,
        outputs,
        wide.data_ptr(),
        weight.data_ptr(),
        bits,
        scale.data_ptr(),
        group_size or 0,
        found.data_ptr(),
        torch.get_num_threads(),
    )
    return found if found.shape[1] == inputs else found[:, :inputs].contiguous()


def activation_gradient(  # noqa: PLR0917 - torch's custom ops take tensors by position
    gradient: Tensor,
    x: Tensor | None = None,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
    bits: int = 8,
    pre_rotation: Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> Tensor:
    """See `reference.activation_gradient`."""
    if scale is not None:
        assert x is not None
        y = cpu.transform_activation(x, smooth, permutation, rotation, pre_rotation)
        gradient = gradient.masked_fill(reference.clipped(y, scale, bits), 0.0)
    inverse = None
    if permutation is not None:
        order = permutation.to(torch.int64)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
    # The steps' transposes, the last step's first: what was the second rotation takes the place of the first.
    first = None if rotation is None else rotation.transpose(-1, -2).contiguous()
    last = None if pre_rotation is None else pre_rotation.transpose(-1, -2).contiguous()
    found = cpu.transform_activation(gradient, None, inverse, last, first)
    if smooth is not None:
        found /= smooth
    return found.to(dtype)
