"""The ops as torch sees them: one schema each, the reference as their default, and a fake for compile and export.

An engine adds itself beside the reference: `cpu`, where it is installed. None of the ops has a derivative yet:
differentiating through a packed layer is an error, not a silent zero.

They are plain `torch.library` definitions. `torch.library.custom_op` puts 10 µs of Python around every call, for checks
that the tests make once; a chunk of π0.5 makes two thousand calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from vlapack.ops import cpu, engine, reference

_STEPS = "Tensor? smooth=None, Tensor? permutation=None, Tensor? rotation=None"
_LAYER = (
    "Tensor weight, Tensor weight_scale, Tensor? row_rotation=None, Tensor? bias=None, "
    "*, ScalarType dtype, int? group_size=None"
)


# A length would be taken for a constant where it is symbolic, and each other one compiled again: hence the shapes.
def _fake_transform(x: Tensor, *steps: Tensor | None) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32, memory_format=torch.contiguous_format)


def _fake_quantize(x: Tensor, *options: Tensor | int | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty((x.shape[0], 1), dtype=torch.float32)


def _fake_int_linear(
    q: Tensor,
    s: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *rest: Tensor | None,
    dtype: torch.dtype,
    group_size: int | None = None,
) -> Tensor:
    return q.new_empty((q.shape[0], len(weight_scale)), dtype=dtype)


def _fake_float_linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *rest: Tensor | None,
    dtype: torch.dtype,
    group_size: int | None = None,
) -> Tensor:
    return x.new_empty((x.shape[0], len(weight)), dtype=dtype)


class _NoDerivative(torch.autograd.Function):
    """Hands its first argument on, as something that the others made and nothing can be differentiated through."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, *sources: Any) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError("vlapack's ops have no autograd formula: a packed layer cannot be differentiated through")


def _without_derivative(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(kernel)
    def run(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return kernel(*arguments, **options)
        with torch.no_grad():
            results = kernel(*arguments, **options)
        if isinstance(results, Tensor):
            return _NoDerivative.apply(results, *arguments)  # type: ignore[no-untyped-call]
        integers, scale = results
        return integers, _NoDerivative.apply(scale, *arguments)  # type: ignore[no-untyped-call]

    return run


def _define(
    name: str, schema: str, default: Callable[..., Any], fake: Callable[..., Any], on_cpu: Callable[..., Any] | None
) -> Any:
    """Define an op; `on_cpu` takes the place of `default` there, where the compiled engine is installed."""
    full = f"vlapack::{name}"
    torch.library.define(full, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(full, "default", _without_derivative(default))
    torch.library.register_fake(full, fake)
    if on_cpu is not None and engine.kernels is not None:
        torch.library.impl(full, "cpu", _without_derivative(on_cpu))
    return getattr(torch.ops.vlapack, name).default


transform_activation = _define(
    "transform_activation",
    f"(Tensor x, {_STEPS}, Tensor? pre_rotation=None) -> Tensor",
    reference.transform_activation,
    _fake_transform,
    cpu.transform_activation,
)
quantize_activation = _define(
    "quantize_activation",
    f"(Tensor x, {_STEPS}, Tensor? scale=None, int bits=8, Tensor? pre_rotation=None) -> (Tensor, Tensor)",
    reference.quantize_activation,
    _fake_quantize,
    cpu.quantize_activation,
)
int_linear = _define(
    "int_linear",
    f"(Tensor q, Tensor s, {_LAYER}) -> Tensor",
    reference.int_linear,
    _fake_int_linear,
    cpu.int_linear,
)
float_linear = _define(
    "float_linear",
    f"(Tensor x, {_LAYER}) -> Tensor",
    reference.float_linear,
    _fake_float_linear,
    None,
)
