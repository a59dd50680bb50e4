"""The ops as torch sees them: one schema each, the reference as their default, and a fake for compile and export.

An engine adds itself beside the reference: `cpu` at the end of this file, where it is installed. None of the ops has a
derivative yet: differentiating through a packed layer is torch's error, not a silent zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.ops import cpu, engine, reference

_STEPS = "Tensor? smooth=None, Tensor? permutation=None, Tensor? rotation=None"
_LAYER = (
    "Tensor weight, Tensor weight_scale, Tensor? row_rotation=None, Tensor? bias=None, "
    "*, ScalarType dtype, int? group_size=None"
)

transform_activation = torch.library.custom_op(
    "vlapack::transform_activation",
    reference.transform_activation,
    mutates_args=(),
    schema=f"(Tensor x, {_STEPS}, Tensor? pre_rotation=None) -> Tensor",
)
quantize_activation = torch.library.custom_op(
    "vlapack::quantize_activation",
    reference.quantize_activation,
    mutates_args=(),
    schema=f"(Tensor x, {_STEPS}, Tensor? scale=None, int bits=8, Tensor? pre_rotation=None) -> (Tensor, Tensor)",
)
int_linear = torch.library.custom_op(
    "vlapack::int_linear",
    reference.int_linear,
    mutates_args=(),
    schema=f"(Tensor q, Tensor s, {_LAYER}) -> Tensor",
)
float_linear = torch.library.custom_op(
    "vlapack::float_linear",
    reference.float_linear,
    mutates_args=(),
    schema=f"(Tensor x, {_LAYER}) -> Tensor",
)


@transform_activation.register_fake
def _(x: Tensor, *steps: Tensor | None) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)


@quantize_activation.register_fake
def _(x: Tensor, *options: Tensor | int | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty((len(x), 1), dtype=torch.float32)


@int_linear.register_fake
def _(
    q: Tensor,
    s: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *rest: Tensor | None,
    dtype: torch.dtype,
    group_size: int | None = None,
) -> Tensor:
    return q.new_empty((len(q), len(weight_scale)), dtype=dtype)


@float_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *rest: Tensor | None,
    dtype: torch.dtype,
    group_size: int | None = None,
) -> Tensor:
    return x.new_empty((len(x), len(weight)), dtype=dtype)


if engine.kernels is not None:
    transform_activation.register_kernel("cpu")(cpu.transform_activation)
    quantize_activation.register_kernel("cpu")(cpu.quantize_activation)
    int_linear.register_kernel("cpu")(cpu.int_linear)
