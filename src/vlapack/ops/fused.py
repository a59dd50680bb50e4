"""The fused ops as torch sees them: what stands between two products of a layer, as one op each.

`fused_reference` and `attention_reference` define them. On GPUs they are Triton's kernels, on CPUs most are C++
(`cpu_fused`, `cpu_attention`), elsewhere the definition. `pi0.fused` builds the network's layers of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlapack.ops import attention_reference, cpu_attention, cpu_fused, fused_reference
from vlapack.ops.library import by_device, by_layout, define, of_triton

_ENDING = "Tensor? s=None, Tensor? weight_scale=None, Tensor? bias=None"
_REST = "Tensor? rest=None, Tensor? rest_s=None, Tensor? rest_weight_scale=None, Tensor? rest_bias=None"
_STEPS = "Tensor? smooth=None, Tensor? permutation=None, Tensor? rotation=None"
_ROUNDING = f"{_STEPS}, Tensor? scale=None, int bits=8, Tensor? pre_rotation=None"
_NORM = (
    "Tensor x, str kind, Tensor weight, Tensor? shift, float eps, int tokens, Tensor? update=None, "
    f"{_ENDING}, Tensor? gate=None"
)
_FEW = "*, int shared, int prefix, bool state_token"
_ATTENTION = "Tensor query, Tensor key, Tensor value, Tensor? prefix_mask=None"


def _fake_sums(q: Tensor, weight: Tensor, outputs: int) -> Tensor:
    return q.new_empty((1, q.shape[0], outputs), dtype=torch.int32)


def _fake_norm_quantize(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    stream, q = _fake_stream(x, rest), x.new_empty(x.shape, dtype=torch.int8)
    return stream, q, x.new_empty((x.shape[0], 1), dtype=torch.float32)


def _fake_norm_transform(x: Tensor, *rest: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return _fake_stream(x, rest), x.new_empty(x.shape, dtype=dtype)


def _fake_stream(x: Tensor, rest: tuple[Any, ...]) -> Tensor:
    update = rest[5] if len(rest) > 5 else None
    return x.new_empty(x.shape if update is not None else (0, x.shape[1]))


def _activated_shape(gate: Tensor, gated: bool) -> tuple[int, int]:
    sums = gate.dim() == 3
    return gate.shape[-2], gate.shape[-1] // 2 if sums and gated else gate.shape[-1]


def _fake_gelu_quantize(gate: Tensor, *rest: Any, gated: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    shape = _activated_shape(gate, gated)
    return gate.new_empty(shape, dtype=torch.int8), gate.new_empty((shape[0], 1), dtype=torch.float32)


def _fake_gelu_transform(gate: Tensor, *rest: Any, gated: bool, dtype: torch.dtype, out_dtype: torch.dtype) -> Tensor:
    return gate.new_empty(_activated_shape(gate, gated), dtype=out_dtype)


def _fake_gated_product(
    q: Tensor, s: Tensor, weight: Tensor, weight_scale: Tensor, *rest: Any, dtype: torch.dtype, **options: Any
) -> Tensor:
    return q.new_empty((q.shape[0], weight_scale.shape[0] // 2), dtype=dtype)


def _fake_turn(product: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, *rest: Any, heads: int) -> Tensor:
    return keys.new_empty((keys.shape[0], cos.shape[1], heads, keys.shape[3]))


def _fake_attend(query: Tensor, *rest: Any) -> Tensor:
    batch, groups, rows, width = query.shape
    return query.new_empty((batch, rows, groups, width)).transpose(1, 2)


def _fake_attend_few(query: Tensor, *rest: Any, **options: Any) -> Tensor:
    return query.new_empty(query.shape)


def _fake_attend_quantize(query: Tensor, *rest: Any, shared: int, **options: Any) -> tuple[Tensor, Tensor]:
    rows = query.shape[0] * query.shape[2] // shared
    q = query.new_empty((rows, query.shape[1] * shared * query.shape[3]), dtype=torch.int8)
    return q, query.new_empty((rows, 1), dtype=torch.float32)


def _on_devices(definition: Any, schema: str, fake: Any, module: str | None, cpu: Any) -> Any:
    """Define an op that runs on the engine of its device: `cpu`, and Triton's `module`, where there is one."""
    name = definition.__name__
    triton = of_triton(module, name) if module else definition
    engines = {"cpu": cpu, "reference": definition, "triton": triton}
    return define(name, schema, definition, fake, by_device(engines))


def _of_layouts(definition: Any, schema: str, fake: Any, position: int) -> Any:
    """Define a product, which runs on the engine for which its weight is laid out."""
    name = definition.__name__
    engines = {"reference": definition, "triton": of_triton("product", name)}
    return define(name, schema, definition, fake, by_layout(engines, position))


int_sums = _of_layouts(fused_reference.int_sums, "(Tensor q, Tensor weight, int outputs) -> Tensor", _fake_sums, 1)
gated_product = _of_layouts(
    fused_reference.gated_product,
    "(Tensor q, Tensor s, Tensor weight, Tensor weight_scale, Tensor? bias=None, "
    "*, ScalarType dtype, int? group_size=None) -> Tensor",
    _fake_gated_product,
    2,
)
norm_quantize = _on_devices(
    fused_reference.norm_quantize,
    f"({_NORM}, {_ROUNDING}) -> (Tensor, Tensor, Tensor)",
    _fake_norm_quantize,
    "fused",
    cpu_fused.norm_quantize,
)
norm_transform = _on_devices(
    fused_reference.norm_transform,
    f"({_NORM}, {_STEPS}, Tensor? pre_rotation=None, *, ScalarType dtype) -> (Tensor, Tensor)",
    _fake_norm_transform,
    "fused",
    cpu_fused.norm_transform,
)
gelu_quantize = _on_devices(
    fused_reference.gelu_quantize,
    f"(Tensor gate, Tensor? up=None, {_ENDING}, {_ROUNDING}, *, bool gated, ScalarType dtype) -> (Tensor, Tensor)",
    _fake_gelu_quantize,
    "fused",
    cpu_fused.gelu_quantize,
)
gelu_transform = _on_devices(
    fused_reference.gelu_transform,
    f"(Tensor gate, Tensor? up=None, {_ENDING}, {_STEPS}, Tensor? pre_rotation=None, "
    "*, bool gated, ScalarType dtype, ScalarType out_dtype) -> Tensor",
    _fake_gelu_transform,
    "fused",
    cpu_fused.gelu_transform,
)
turn_and_keep = _on_devices(
    attention_reference.turn_and_keep,
    f"(Tensor product, Tensor cos, Tensor sin, Tensor(a!) keys, Tensor(b!) values, int first, {_ENDING}, {_REST}, "
    "*, int heads) -> Tensor",
    _fake_turn,
    "turning",
    cpu_fused.turn_and_keep,
)
attend = _on_devices(
    attention_reference.attend,
    "(Tensor query, Tensor key, Tensor value, Tensor? mask=None) -> Tensor",
    _fake_attend,
    None,
    cpu_attention.attend,
)
attend_few = _on_devices(
    attention_reference.attend_few,
    f"({_ATTENTION}, {_FEW}) -> Tensor",
    _fake_attend_few,
    "attention",
    cpu_attention.attend_few,
)
attend_quantize = _on_devices(
    attention_reference.attend_quantize,
    f"({_ATTENTION}, {_ROUNDING}, {_FEW}) -> (Tensor, Tensor)",
    _fake_attend_quantize,
    "attention_step",
    cpu_attention.attend_quantize,
)
