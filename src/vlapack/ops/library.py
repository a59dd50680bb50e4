"""The ops as torch sees them: one schema each, the reference as their default, and a fake for compile and export.

An engine adds itself beside the reference: `cpu` on the CPU and `triton` on GPUs, whose modules are imported when
they are first called. An activation step runs on the engine of its device, a product on the engine that its weight is
laid out for. None of the ops has a derivative by itself: `ops.gradient` gives the two float ones theirs, and adds two
for integers. Differentiating through any other is an error, not a silent zero.

They are plain `torch.library` definitions. `torch.library.custom_op` puts 10 µs of Python around every call, for checks
that the tests make once; a chunk of π0.5 makes two thousand calls.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops import cpu, engine, layouts, reference

STEPS = "Tensor? smooth=None, Tensor? permutation=None, Tensor? rotation=None"
LAYER = (
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
    return x.new_empty((x.shape[0], len(weight_scale)), dtype=dtype)


class _NoDerivative(torch.autograd.Function):
    """Hands its first argument on, as something that the others made and nothing can be differentiated through."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, *sources: Any) -> Tensor:
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(
            "this op of vlapack has no autograd formula: differentiate, once, through the modules (PackedLinear)"
        )


def _without_derivative(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(kernel)
    def run(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return kernel(*arguments, **options)
        with torch.no_grad():
            results = kernel(*arguments, **options)
        if isinstance(results, Tensor):
            return _NoDerivative.apply(results, *arguments)  # type: ignore[no-untyped-call]
        return tuple(
            _NoDerivative.apply(result, *arguments) if result.is_floating_point() else result  # type: ignore[no-untyped-call]
            for result in results
        )

    return run


def of_triton(module: str, name: str) -> Callable[..., Any]:
    """A function of `ops/triton/`, which needs a package that not everybody has.

    Triton launches on the current card whatever its tensors say, so that of the tensors is made the current one.
    """

    def run(x: Tensor, *arguments: Any, **options: Any) -> Any:
        kernel = getattr(importlib.import_module(f"vlapack.ops.triton.{module}"), name)
        if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
            return kernel(x, *arguments, **options)
        with torch.cuda.device(x.device):
            return kernel(x, *arguments, **options)

    return run


def by_device(engines: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Run an activation step on the engine of its device."""

    def run(x: Tensor, *arguments: Any, **options: Any) -> Any:
        return engines[engine.active(x.device)](x, *arguments, **options)

    return run


def by_layout(engines: Mapping[str, Callable[..., Any]], position: int) -> Callable[..., Any]:
    """Run a product on the engine for which its weight is laid out, the argument at `position`; never on another."""

    def run(x: Tensor, *arguments: Any, **options: Any) -> Any:
        weight: Tensor = arguments[position - 1] if len(arguments) >= position else options["weight"]
        name = layouts.engine_of(weight)
        if name == "triton" and x.device.type == "cpu":
            engine.start_interpreter()
        elif name not in engines or weight.device != x.device or (name == "cpu" and x.device.type != "cpu"):
            raise InputError(
                f"a weight on {weight.device}, laid out for the engine {name}, and activations on {x.device}: move the "
                "layer by its `to`, which repacks it"
            )
        return engines[name](x, *arguments, **options)

    return run


def define(
    name: str,
    schema: str,
    default: Callable[..., Any],
    fake: Callable[..., Any],
    choosing: Callable[..., Any],
) -> Any:
    """Define an op; `choosing` takes the place of `default` where there is more than one engine."""
    full = f"vlapack::{name}"
    torch.library.define(full, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(full, "default", _without_derivative(default))
    torch.library.register_fake(full, fake)
    torch.library.impl(full, ("cpu", "cuda"), _without_derivative(choosing))
    return getattr(torch.ops.vlapack, name).default


transform_activation = define(
    "transform_activation",
    f"(Tensor x, {STEPS}, Tensor? pre_rotation=None) -> Tensor",
    reference.transform_activation,
    _fake_transform,
    by_device(
        {
            "cpu": cpu.transform_activation,
            "triton": of_triton("activation", "transform_activation"),
            "reference": reference.transform_activation,
        }
    ),
)
quantize_activation = define(
    "quantize_activation",
    f"(Tensor x, {STEPS}, Tensor? scale=None, int bits=8, Tensor? pre_rotation=None) -> (Tensor, Tensor)",
    reference.quantize_activation,
    _fake_quantize,
    by_device(
        {
            "cpu": cpu.quantize_activation,
            "triton": of_triton("activation", "quantize_activation"),
            "reference": reference.quantize_activation,
        }
    ),
)
int_linear = define(
    "int_linear",
    f"(Tensor q, Tensor s, {LAYER}) -> Tensor",
    reference.int_linear,
    _fake_int_linear,
    by_layout(
        {
            "cpu": cpu.int_linear,
            "triton": of_triton("product", "int_linear"),
            "reference": reference.int_linear,
        },
        position=2,
    ),
)
float_linear = define(
    "float_linear",
    f"(Tensor x, {LAYER}) -> Tensor",
    reference.float_linear,
    _fake_float_linear,
    by_layout({"triton": of_triton("weight_only", "float_linear"), "reference": reference.float_linear}, position=1),
)
