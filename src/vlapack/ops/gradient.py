"""Derivatives of packed layers by their inputs: straight-through for what is rounded, none for weights.

The derivative is that of the dequantized layer, with rounding as the identity and every scale as a constant
(`reference.activation_gradient` says what is clipped). Integers carry no gradient in torch. So where an input requires
one, a layer runs two more ops: `straight_through` makes s * q, a float tensor through which the gradient goes back to
the input, and `linear_through` is `int_linear`, to the bit, with a derivative by that tensor. The float ops,
`transform_activation` and `float_linear`, get theirs directly. Formulas go through `torch.library.register_autograd`,
so `torch.compile` traces them without a break. What is not here is an error: second derivatives, forward mode, and
`torch.func`, which those formulas do not support.

The backward product has a kernel on the CPU (`cpu_gradient`) and on GPUs (`triton.gradient`), which read the weight as
the forward product does; the activation step goes back through the engine's own transform (`step_gradient`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from vlapack.ops import cpu, cpu_gradient, library, reference, step_gradient
from vlapack.ops.library import LAYER, STEPS, by_device, by_layout, define, of_triton

_ROUNDING = f"{STEPS}, Tensor? scale=None, int bits=8, Tensor? pre_rotation=None"


def wanted(x: Tensor) -> bool:
    """Whether somebody may differentiate by what is computed of `x` here.

    Raises:
        RuntimeError: somebody does by forward mode (`torch.func.jvp`), of which ops without a formula would make zeros.
    """
    if not torch.is_grad_enabled() or x.requires_grad:
        return torch.is_grad_enabled()
    if not torch.compiler.is_compiling() and unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
        raise RuntimeError("packed layers have no forward-mode derivative: use torch.autograd.grad")
    return False


def _fake_linear_gradient(gradient: Tensor, *layer: Tensor | None, inputs: int, **options: Any) -> Tensor:
    return gradient.new_empty((gradient.shape[0], inputs), dtype=torch.float32)


def _fake_activation_gradient(gradient: Tensor, *rest: Any, dtype: torch.dtype) -> Tensor:
    return gradient.new_empty(gradient.shape, dtype=dtype)


linear_gradient = define(
    "linear_gradient",
    "(Tensor gradient, Tensor weight, Tensor weight_scale, Tensor? row_rotation=None, "
    "*, SymInt inputs, int? group_size=None) -> Tensor",
    reference.linear_gradient,
    _fake_linear_gradient,
    by_layout(
        {
            "cpu": cpu_gradient.linear_gradient,
            "triton": of_triton("gradient", "linear_gradient"),
            "reference": reference.linear_gradient,
        },
        position=1,
    ),
)
activation_gradient = define(
    "activation_gradient",
    f"(Tensor gradient, Tensor? x=None, {_ROUNDING}, *, ScalarType dtype) -> Tensor",
    reference.activation_gradient,
    _fake_activation_gradient,
    by_device(
        {
            "cpu": step_gradient.through(cpu.transform_activation),
            "triton": step_gradient.through(of_triton("activation", "transform_activation")),
            "reference": reference.activation_gradient,
        }
    ),
)


def _dequantized(x: Tensor, q: Tensor, s: Tensor, *rounding: Any) -> Tensor:
    return q.float() * s


def _fake_dequantized(x: Tensor, q: Tensor, *rest: Any) -> Tensor:
    return q.new_empty(q.shape, dtype=torch.float32)


def _linear(through: Tensor, q: Tensor, s: Tensor, *layer: Tensor | None, **options: Any) -> Tensor:
    y: Tensor = library.int_linear(q, s, *layer, **options)
    return y


def _fake_linear(
    through: Tensor, q: Tensor, s: Tensor, weight: Tensor, weight_scale: Tensor, *rest: Any, **options: Any
) -> Tensor:
    return q.new_empty((q.shape[0], len(weight_scale)), dtype=options["dtype"])


straight_through = define(
    "straight_through",
    f"(Tensor x, Tensor q, Tensor s, {_ROUNDING}) -> Tensor",
    _dequantized,
    _fake_dequantized,
    _dequantized,
)
linear_through = define(
    "linear_through", f"(Tensor through, Tensor q, Tensor s, {LAYER}) -> Tensor", _linear, _fake_linear, _linear
)


def _keep_rounding(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, _, _, smooth, permutation, rotation, scale, bits, pre_rotation = inputs
    ctx.save_for_backward(None if scale is None else x, smooth, permutation, rotation, scale, pre_rotation)
    ctx.bits, ctx.dtype = bits, x.dtype


def _back_through_rounding(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    *before, pre_rotation = ctx.saved_tensors
    return activation_gradient(gradient, *before, ctx.bits, pre_rotation, dtype=ctx.dtype), *[None] * 8


def _keep_transform(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *steps = inputs
    ctx.save_for_backward(*steps)
    ctx.dtype = x.dtype


def _back_through_transform(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    *steps, pre_rotation = ctx.saved_tensors
    found = activation_gradient(gradient, None, *steps, pre_rotation=pre_rotation, dtype=ctx.dtype)
    return found, *[None] * 4


def _keep_layer(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    x, *layer = inputs
    *_, weight, weight_scale, row_rotation, _ = layer
    ctx.save_for_backward(weight, weight_scale, row_rotation)
    ctx.options = {"inputs": x.shape[1], "group_size": keyword_only_inputs["group_size"]}
    ctx.dtype, ctx.others = x.dtype, len(layer)


def _back_through_layer(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    found = linear_gradient(gradient, *ctx.saved_tensors, **ctx.options)
    return found.to(ctx.dtype), *[None] * ctx.others


for _op, _backward, _setup in (
    (straight_through, _back_through_rounding, _keep_rounding),
    (linear_through, _back_through_layer, _keep_layer),
    (library.transform_activation, _back_through_transform, _keep_transform),
    (library.float_linear, _back_through_layer, _keep_layer),
):
    torch.library.register_autograd(_op, _backward, setup_context=_setup)
