"""The definition of the fused ops, in plain torch: what stands between two products of a layer, as one op each.

A graph of a whole chunk is bound by its number of kernels, more than by arithmetic, so an engine may run each of these
as one. They are plain torch's operations, one after the other, and round where plain torch would store a result. A
product may be handed on before it is ended: as int32 sums [S, M, N] of S shares of its channels, with the scales and
the bias that end it; the op that reads it does what is left.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, rms_norm

from vlapack.ops import reference

NORMS = ("rms", "adaptive", "layer")


def int_sums(q: Tensor, weight: Tensor, outputs: int) -> Tensor:
    """Return q Wᵀ as int32 [S, M, N], whose sum over S is exact: a product without its scales.

    Args:
        q: Activations [M, K] int8.
        weight: As the engine laid it out, or as a pack stores it; without groups of channels and row rotation.
        outputs: N.
    """
    return reference.integer_product(q, weight).to(torch.int32)[None]


def ended(
    product: Tensor, s: Tensor | None, weight_scale: Tensor | None, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return a product [M, N] in `dtype` as `reference.int_linear` ends it; one that is ended already comes back.

    Args:
        product: [M, N] floating, or sums [S, M, N] int32.
        s: [M, 1] fp32, of the activations; with sums only, as the next two.
        weight_scale: [N, 1] fp32.
        bias: [N], or None.
        dtype: Of the result of sums.
    """
    if product.dim() == 2:
        return product
    assert s is not None
    assert weight_scale is not None
    y = product.sum(0).float() * weight_scale.T * s
    return (y if bias is None else y + bias).to(dtype)


def normalized(  # noqa: PLR0917 - torch's custom ops take tensors by position
    x: Tensor,
    kind: str,
    weight: Tensor,
    shift: Tensor | None,
    eps: float,
    tokens: int,
    update: Tensor | None,
    s: Tensor | None,
    weight_scale: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the new residual stream and its norm, both [M, K] in the dtype of x.

    Args:
        x: The stream [M, K].
        kind: `rms` (times 1 + weight), `adaptive` (times weight, plus shift) or `layer` (LayerNorm).
        weight: [K], or [B or 1, K] if adaptive.
        shift: Like weight; None for `rms`.
        eps: Of the norm.
        tokens: M / B, rows of one sample.
        update: What is added to the stream, [M, K] or sums (see `ended`); None: nothing.
        s: Of the sums.
        weight_scale: Of the sums.
        bias: Of the sums.
        gate: [B or 1, K] floating, times which the update is added; None: times one.
    """

    def of_rows(tensor: Tensor) -> Tensor:
        rows = tensor if tensor.dim() == 2 else tensor[None]
        return rows.repeat_interleave(tokens, 0) if len(rows) > 1 else rows

    if update is not None:
        update = ended(update, s, weight_scale, bias, x.dtype)
        x = x + update if gate is None else torch.addcmul(x, update, of_rows(gate).to(x.dtype))
    if kind == "layer":
        return x, layer_norm(x, x.shape[-1:], weight.to(x.dtype), None if shift is None else shift.to(x.dtype), eps)
    normed = rms_norm(x.float(), x.shape[-1:], eps=eps)
    if kind == "rms":
        return x, (normed * (1.0 + of_rows(weight).float())).to(x.dtype)
    assert shift is not None
    return x, torch.addcmul(of_rows(shift).float(), normed, of_rows(weight).float()).to(x.dtype)


def norm_quantize(  # noqa: PLR0917
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
    """Add to the stream, normalize it and round it for the products that follow.

    The arguments are those of `normalized` and `reference.quantize_activation`.

    Returns:
        The new stream [M, K] ([0, K] without an update), q [M, K] int8 and s [M, 1] fp32.
    """
    stream, y = normalized(x, kind, weight, shift, eps, tokens, update, s, weight_scale, bias, gate)
    q, steps = reference.quantize_activation(y, smooth, permutation, rotation, scale, bits, pre_rotation)
    return _new(stream, update), q, steps


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
    """Do what `norm_quantize` does, without rounding to integers: for products whose activations stay floating.

    Returns:
        The new stream [M, K] ([0, K] without an update), and y [M, K] in `dtype`.
    """
    stream, y = normalized(x, kind, weight, shift, eps, tokens, update, s, weight_scale, bias, gate)
    y = _stepped(y, smooth, permutation, rotation, pre_rotation)
    return _new(stream, update), y.to(dtype)


def activated(
    gate: Tensor,
    up: Tensor | None,
    s: Tensor | None,
    weight_scale: Tensor | None,
    bias: Tensor | None,
    *,
    gated: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Return gelu(gate) · up [M, F] in `dtype`, or GELU alone, by its tanh approximation.

    Args:
        gate: [M, F] in `dtype`, or sums (see `ended`): [S, M, F], or [S, M, 2F] with the channels of gate and up in
            turns if `gated`.
        up: [M, F], where both are ended and `gated`.
        s: Of the sums, as the next two.
        weight_scale: [N, 1] fp32.
        bias: [N] or None.
        gated: Whether there is an up.
        dtype: Of every rounding.
    """
    y = ended(gate, s, weight_scale, bias, dtype)
    if gated and up is None:
        y, up = y[:, 0::2], y[:, 1::2]
    y = gelu(y, approximate="tanh")
    return y if up is None else y * up


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
    """Round what enters an MLP's last product; arguments of `activated` and `reference.quantize_activation`.

    Returns:
        q [M, F] int8 and s [M, 1] fp32.
    """
    y = activated(gate, up, s, weight_scale, bias, gated=gated, dtype=dtype)
    return reference.quantize_activation(y, smooth, permutation, rotation, scale, bits, pre_rotation)


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
    """Do what `gelu_quantize` does, without rounding to integers: [M, F] in `out_dtype`."""
    y = activated(gate, up, s, weight_scale, bias, gated=gated, dtype=dtype)
    y = _stepped(y, smooth, permutation, rotation, pre_rotation)
    return y.to(out_dtype, copy=True)


def gated_product(
    q: Tensor,
    s: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    dtype: torch.dtype,
    group_size: int | None = None,
) -> Tensor:
    """Return gelu(gate) · up [M, F] from one product of both, whose rows are in turns; fp32 until the end.

    The arguments are those of `reference.int_linear`.
    """
    y = reference.int_linear(q, s, weight, weight_scale, None, bias, dtype=torch.float32, group_size=group_size)
    return (gelu(y[:, 0::2], approximate="tanh") * y[:, 1::2]).to(dtype)


def _stepped(y: Tensor, *steps: Tensor | None) -> Tensor:
    """Take the steps of a transform; without any, the values keep their dtype."""
    return y if all(step is None for step in steps) else reference.transform_activation(y, *steps)


def _new(stream: Tensor, update: Tensor | None) -> Tensor:
    """The stream if it is a new one; torch's custom ops must not return their argument."""
    return stream if update is not None else stream.new_empty(0, stream.shape[1])
