"""What stands before an activation step, in the same launch: norm, residual sum and gate, or an MLP's activation.

A graph of a whole chunk is bound by its number of launches, more than by arithmetic. These are plain torch's operations
between two products as one launch each (with dense blocks two or three), rounded where plain torch would store a
result. Integers differ from `fused_reference`'s only where the order of a norm's sum or a last bit of exp shows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops.fused_reference import NORMS
from vlapack.ops.triton.activation import quantized, transformed
from vlapack.ops.triton.source import Source
from vlapack.ops.triton.steps import Steps
from vlapack.ops.triton.sums import Ending, ending
from vlapack.ops.triton.tensors import FLOATS, check_width, described, matrix


def norm_quantize(
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
    source = _norm(x, kind, weight, shift, eps, tokens, update, s, weight_scale, bias, gate)
    q, step = quantized(source, Steps(smooth, permutation, rotation, scale, bits, pre_rotation))
    return _stream(source), q, step


def norm_transform(
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
    _check_dtype("dtype", dtype)
    source = _norm(x, kind, weight, shift, eps, tokens, update, s, weight_scale, bias, gate)
    y = transformed(source, Steps(smooth, permutation, rotation, pre_rotation=pre_rotation), dtype)
    return _stream(source), y


def gelu_quantize(
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
    source = _activation(gate, up, s, weight_scale, bias, gated, dtype)
    return quantized(source, Steps(smooth, permutation, rotation, scale, bits, pre_rotation))


def gelu_transform(
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
    _check_dtype("out_dtype", out_dtype)
    source = _activation(gate, up, s, weight_scale, bias, gated, dtype)
    return transformed(source, Steps(smooth, permutation, rotation, pre_rotation=pre_rotation), out_dtype)


def _norm(
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
) -> Source:
    """Check what a norm reads. Its new stream, if there is an update, is written with its rows."""
    if kind not in NORMS:
        raise InputError(f"a norm of the kind {kind!r}: there are {', '.join(NORMS)}")
    _check_dtype("x", x.dtype)
    x = matrix("x", x)
    count, channels = x.shape
    if tokens < 1 or count % tokens:
        raise InputError(f"tokens={tokens} of {count} rows: it must divide them")
    if gate is not None and update is None:
        raise InputError("a gate multiplies the update, and there is none")
    weight, shift = _affine(kind, weight, shift, count // tokens, channels, x.device)
    product = None
    if update is not None:
        product = ending("update", update, s, weight_scale, bias, (count, channels), x.dtype, x.device)
    return Source(
        kind,
        (count, channels),
        x.dtype,
        x,
        product,
        None if gate is None else _of_samples("gate", gate, count // tokens, channels, x.device),
        weight,
        shift,
        None if update is None else torch.empty(x.shape, dtype=x.dtype, device=x.device),
        tokens,
        eps,
    )


def _affine(
    kind: str, weight: Tensor, shift: Tensor | None, batch: int, channels: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Check a norm's factors and shifts, and give them the same strides."""
    if kind == "rms" and shift is not None:
        raise InputError("the norm rms has no shift")
    if kind == "adaptive" and shift is None:
        raise InputError("the norm adaptive needs a shift")
    weight = _of_samples("weight", weight, batch, channels, device)
    if shift is None:
        return weight, None
    shift = _of_samples("shift", shift, batch, channels, device)
    if shift.shape != weight.shape:
        raise InputError(f"the norm's shift {list(shift.shape)} must have its weight's shape {list(weight.shape)}")
    if shift.stride() != weight.stride():
        return weight.contiguous(), shift.contiguous()
    return weight, shift


def _stream(source: Source) -> Tensor:
    """The new stream, or [0, K]: torch's ops must not return their argument."""
    if source.stream is not None:
        return source.stream
    return torch.empty(0, source.shape[1], dtype=source.dtype, device=source.device)


def _activation(
    gate: Tensor,
    up: Tensor | None,
    s: Tensor | None,
    weight_scale: Tensor | None,
    bias: Tensor | None,
    gated: bool,
    dtype: torch.dtype,
) -> Source:
    """Check what an MLP's activation reads."""
    _check_dtype("dtype", dtype)
    kind, sums = "geglu" if gated else "gelu", gate.dim() == 3
    if (up is not None) != (gated and not sums):
        found = "sums of a product" if sums else "a product that is ended"
        raise InputError(
            f"gated={gated} and {found} {'with' if up is not None else 'without'} `up`: it is the second "
            "factor where gate is ended and gated, and else None"
        )
    if sums:
        count, outputs = gate.shape[1:]
        if gated and outputs % 2:
            raise InputError(f"{outputs} outputs of gate and up in turns: their number must be even")
        shape = (count, outputs // 2 if gated else outputs)
        check_width("gate", shape[1])
        product = ending("gate", gate, s, weight_scale, bias, (count, outputs), dtype, gate.device)
        return Source(kind, shape, dtype, second=product)
    if gate.dtype != dtype:
        raise InputError(f"gate must be {dtype} [M, F], or int32 sums of it, not {described(gate)}")
    gate = matrix("gate", gate)
    shape = (gate.shape[0], gate.shape[1])
    second: Ending | None = None
    if up is not None:
        second = ending("up", up, None, None, None, shape, dtype, gate.device)
    return Source(kind, shape, dtype, gate, second)


def _of_samples(name: str, tensor: Tensor, batch: int, channels: int, device: torch.device) -> Tensor:
    """Return a norm's or gate's [K] or [B or 1, K] with neighboring channels side by side."""
    fits = tensor.dim() in (1, 2) and tensor.shape[-1] == channels and (tensor.dim() == 1 or len(tensor) in (1, batch))
    if not fits or tensor.dtype not in FLOATS or tensor.device != device:
        wanted = f"floating [{channels}] or [1 or {batch}, {channels}] on {device}"
        raise InputError(f"{name} must be {wanted}, not {described(tensor)}")
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _check_dtype(name: str, dtype: torch.dtype) -> None:
    if dtype not in FLOATS:
        raise InputError(f"{name} is {dtype}: the triton engine's are {', '.join(map(str, FLOATS))}")
