"""The `cpu` engine's backward product (`ops.gradient`): checks the tensors and hands their addresses to csrc/.

Products are fp32: weights are widened where they are multiplied (csrc/gradient.cpp). With AVX-512 VNNI and one scale
for each output, gradients are rounded to 16 bits instead, which is off by at most 1e-4 of their norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.round import group_count
from vlapack.ops import cpu
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
