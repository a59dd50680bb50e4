"""The fused ops on the `cpu` engine: what stands between two products, in one pass over each row (csrc/beginning.hpp).

Values round where the definition (`fused_reference`) stores them. What differs is the last bit of norms and of GELU,
before that rounding: sums are taken in another order, and the exponential is this engine's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.round import largest_activation
from vlapack.ops import attention_reference
from vlapack.ops import fused_reference as definition
from vlapack.ops.cpu import Results, Steps, address, checked, matrix, source
from vlapack.ops.engine import kernels

KINDS = (torch.float32, torch.bfloat16)
"""Dtypes of a stream that the kernels round to; another is the definition's."""


def norm_quantize(  # noqa: PLR0917 - torch's custom ops take tensors by position
    x: Tensor,
    kind: str,
    weight: Tensor,
    shift: Tensor | None,
    eps: float,
    tokens: int,
    update: Tensor | None = None,
    s: Tensor | None = None,
    weight_scale: Tensor | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
    bits: int = 8,
    pre_rotation: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `fused_reference.norm_quantize`."""
    if x.dtype not in KINDS:
        norm = (x, kind, weight, shift, eps, tokens, update, s, weight_scale, bias, gate)
        return definition.norm_quantize(*norm, smooth, permutation, rotation, scale, bits, pre_rotation)
    update = _ended(update, s, weight_scale, bias, x.dtype)
    steps = Steps(x.shape[1], smooth, permutation, rotation, pre_rotation)
    q, row_scale = _integers(x.shape)
    results = Results(scale, largest_activation(bits), q, row_scale, None)
    return _normed(x, kind, weight, shift, eps, tokens, update, gate, steps, results), q, row_scale


def norm_transform(  # noqa: PLR0917
    x: Tensor,
    kind: str,
    weight: Tensor,
    shift: Tensor | None,
    eps: float,
    tokens: int,
    update: Tensor | None = None,
    s: Tensor | None = None,
    weight_scale: Tensor | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    pre_rotation: Tensor | None = None,
    *,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """See `fused_reference.norm_transform`."""
    if x.dtype not in KINDS:
        norm = x, kind, weight, shift, eps, tokens, update, s, weight_scale, bias, gate
        return definition.norm_transform(*norm, smooth, permutation, rotation, pre_rotation, dtype=dtype)
    update = _ended(update, s, weight_scale, bias, x.dtype)
    steps = Steps(x.shape[1], smooth, permutation, rotation, pre_rotation)
    y = torch.empty(x.shape, dtype=dtype if dtype in KINDS else torch.float32)
    stream = _normed(x, kind, weight, shift, eps, tokens, update, gate, steps, Results(None, 1, None, None, y))
    return stream, y.to(dtype)


def gelu_quantize(  # noqa: PLR0917
    gate: Tensor,
    up: Tensor | None = None,
    s: Tensor | None = None,
    weight_scale: Tensor | None = None,
    bias: Tensor | None = None,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
    bits: int = 8,
    pre_rotation: Tensor | None = None,
    *,
    gated: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """See `fused_reference.gelu_quantize`."""
    if dtype not in KINDS:
        product, steps_of = (gate, up, s, weight_scale, bias), (smooth, permutation, rotation)
        return definition.gelu_quantize(*product, *steps_of, scale, bits, pre_rotation, gated=gated, dtype=dtype)
    gate, up = _halves(gate, up, s, weight_scale, bias, gated=gated, dtype=dtype)
    q, row_scale = _integers(gate.shape)
    steps = Steps(gate.shape[1], smooth, permutation, rotation, pre_rotation)
    results = Results(scale, largest_activation(bits), q, row_scale, None)
    rows, channels = gate.shape
    kernels.gelu(rows, channels, source(gate, up), steps.addresses, results.addresses, torch.get_num_threads())
    return q, row_scale


def gelu_transform(  # noqa: PLR0917
    gate: Tensor,
    up: Tensor | None = None,
    s: Tensor | None = None,
    weight_scale: Tensor | None = None,
    bias: Tensor | None = None,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    pre_rotation: Tensor | None = None,
    *,
    gated: bool,
    dtype: torch.dtype,
    out_dtype: torch.dtype,
) -> Tensor:
    """See `fused_reference.gelu_transform`."""
    if dtype not in KINDS:
        product, steps_of = (gate, up, s, weight_scale, bias), (smooth, permutation, rotation, pre_rotation)
        return definition.gelu_transform(*product, *steps_of, gated=gated, dtype=dtype, out_dtype=out_dtype)
    gate, up = _halves(gate, up, s, weight_scale, bias, gated=gated, dtype=dtype)
    steps = Steps(gate.shape[1], smooth, permutation, rotation, pre_rotation)
    y = torch.empty(gate.shape, dtype=out_dtype if out_dtype in KINDS else torch.float32)
    results = Results(None, 1, None, None, y)
    rows, channels = gate.shape
    kernels.gelu(rows, channels, source(gate, up), steps.addresses, results.addresses, torch.get_num_threads())
    return y.to(out_dtype)


def turn_and_keep(  # noqa: PLR0917
    product: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    first: int,
    s: Tensor | None = None,
    weight_scale: Tensor | None = None,
    bias: Tensor | None = None,
    rest: Tensor | None = None,
    rest_s: Tensor | None = None,
    rest_weight_scale: Tensor | None = None,
    rest_bias: Tensor | None = None,
    *,
    heads: int,
) -> Tensor:
    """See `attention_reference.turn_and_keep`."""
    kind = keys.dtype
    batch, groups, capacity, width = keys.shape
    tokens = cos.shape[1]
    alike = keys.is_contiguous() and values.is_contiguous() and cos.dtype == sin.dtype == values.dtype == kind
    if kind not in KINDS or not alike:
        given = product, cos, sin, keys, values, first, s, weight_scale, bias
        of_rest = rest, rest_s, rest_weight_scale, rest_bias
        return attention_reference.turn_and_keep(*given, *of_rest, heads=heads)
    product = matrix("product", definition.ended(product, s, weight_scale, bias, kind))
    if rest is not None:
        rest = matrix("rest", definition.ended(rest, rest_s, rest_weight_scale, rest_bias, kind))
    columns = product.shape[1] + (0 if rest is None else rest.shape[1])
    if columns != (heads + 2 * groups) * width or len(product) != batch * tokens:
        raise InputError(
            f"a product of {len(product)} rows and {columns} columns: {batch * tokens} and "
            f"{(heads + 2 * groups) * width} make {heads} queries and {groups} keys and values of {width}"
        )
    if first < 0 or first + tokens > capacity:
        raise InputError(f"tokens {first} to {first + tokens - 1} in a cache of {capacity}")
    table = (len(cos), tokens, 1, width)
    cos, sin = checked("cos", cos, kind, table), checked("sin", sin, kind, table)
    queries = torch.empty(batch, tokens, heads, width, dtype=kind)
    kernels.turn(
        kind == torch.bfloat16,
        batch,
        tokens,
        heads,
        groups,
        width,
        product.data_ptr(),
        product.stride(0),
        product.shape[1] // width,
        address(rest),
        0 if rest is None else rest.stride(0),
        cos.data_ptr(),
        sin.data_ptr(),
        tokens * width if len(cos) > 1 else 0,
        keys.data_ptr(),
        values.data_ptr(),
        capacity,
        first,
        queries.data_ptr(),
        torch.get_num_threads(),
    )
    return queries


def _normed(  # noqa: PLR0917
    x: Tensor,
    kind: str,
    weight: Tensor,
    shift: Tensor | None,
    eps: float,
    tokens: int,
    update: Tensor | None,
    gate: Tensor | None,
    steps: Steps,
    results: Results,
) -> Tensor:
    """Norm into `results`; return the new stream, [0, K] without an update."""
    if kind not in definition.NORMS or (shift is not None if kind == "rms" else shift is None and kind == "adaptive"):
        without = "without" if shift is None else "with"
        raise InputError(f"a norm of kind {kind!r} {without} shift: rms takes none, adaptive needs one")
    if kind == "layer":  # as torch has it
        weight, shift = weight.to(x.dtype), None if shift is None else shift.to(x.dtype)
    x = matrix("x", x)
    rows, channels = x.shape
    if update is not None:
        update = matrix("update", update)
        if update.shape != x.shape or update.dtype != x.dtype:
            raise InputError(f"update {update.dtype} {list(update.shape)} of a stream {x.dtype} {list(x.shape)}")
    of_norm = [_Samples(name, one, channels) for name, one in (("weight", weight), ("shift", shift), ("gate", gate))]
    stream = x.new_empty(x.shape if update is not None else (0, channels))
    address_of = (definition.NORMS.index(kind), *of_norm[0].pair, *of_norm[1].pair, *of_norm[2].pair)
    norm = (*address_of, eps, tokens, stream.data_ptr())
    kernels.norm(rows, channels, source(x, update), norm, steps.addresses, results.addresses, torch.get_num_threads())
    return stream


class _Samples:
    """Values of every sample, [K] or [B or 1, K], in fp32.

    Attributes:
        pair: their address and the elements from sample to sample, 0 where all have the same.
    """

    def __init__(self, name: str, values: Tensor | None, channels: int) -> None:
        self.pair = (0, 0)
        if values is None:
            return
        if values.shape[-1] != channels or values.dim() > 2:
            raise InputError(f"{name} must be [{channels}] or [B or 1, {channels}], not {list(values.shape)}")
        values = values.float()
        self._values = values if values.stride(-1) == 1 else values.contiguous()
        several = values.dim() > 1 and len(values) > 1
        self.pair = self._values.data_ptr(), self._values.stride(0) if several else 0


def _ended(
    update: Tensor | None, s: Tensor | None, weight_scale: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    return None if update is None else definition.ended(update, s, weight_scale, bias, dtype)


def _halves(
    gate: Tensor,
    up: Tensor | None,
    s: Tensor | None,
    weight_scale: Tensor | None,
    bias: Tensor | None,
    *,
    gated: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """Gate and up, each a matrix of the stream's dtype."""
    y = definition.ended(gate, s, weight_scale, bias, dtype)
    if gated and up is None:
        y, up = y[:, 0::2], y[:, 1::2]
    if up is not None and (up.shape != y.shape or up.dtype != y.dtype):
        raise InputError(f"up {up.dtype} {list(up.shape)} of a gate {y.dtype} {list(y.shape)}")
    return matrix("gate", y.to(dtype)), None if up is None else matrix("up", up.to(dtype))


def _integers(shape: torch.Size) -> tuple[Tensor, Tensor]:
    return torch.empty(shape, dtype=torch.int8), torch.empty(shape[0], 1, dtype=torch.float32)
