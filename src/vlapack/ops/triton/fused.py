"""What stands before an activation step, in the same launch: norm, residual sum and gate, or an MLP's activation.

A graph of a whole chunk is bound by its number of launches, more than by arithmetic. These are plain torch's operations
between two products as one launch each (with dense blocks two more), rounded where plain torch would store a result, so
that integers differ from the unfused path's only where the order of a norm's sum or a last bit of exp shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops.triton.activation import FLOATS, Source, Steps, matrix, quantized


@dataclass(frozen=True)
class Norm:
    """The norm before a product; build it by one of the three class methods.

    Attributes:
        kind: `rms`, `adaptive` or `layer`, as `rows` knows them.
        weight: [K] or [B or 1, K].
        shift: Like `weight`; None for `rms`.
        eps: Added to the mean square, or to the variance.
    """

    kind: str
    weight: Tensor
    shift: Tensor | None
    eps: float

    @classmethod
    def rms(cls, weight: Tensor, eps: float = 1e-6) -> Norm:
        """Gemma's: x / rms(x) times 1 + `weight` [K]."""
        return cls("rms", weight, None, eps)

    @classmethod
    def adaptive(cls, modulation: Tensor, eps: float = 1e-6) -> Norm:
        """adaRMS: x / rms(x) times the factor, plus the shift, of `modulation` [B or 1, 3, K]; its gate comes later."""
        return cls("adaptive", modulation[:, 0], modulation[:, 1], eps)

    @classmethod
    def layer(cls, weight: Tensor, bias: Tensor, eps: float = 1e-6) -> Norm:
        """LayerNorm with `weight` and `bias` [K]."""
        return cls("layer", weight, bias, eps)


def norm_quantize(
    x: Tensor,
    norm: Norm,
    steps: Steps,
    update: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    tokens: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add to the residual stream, normalize it, and round it for the products that follow.

    Args:
        x: The stream [M, K] floating; its dtype is that of every rounding.
        norm: What reads the new stream.
        steps: Of the products' input.
        update: [M, K] like x, what attention or the MLP gave; None leaves the stream as it is.
        gate: [B or 1, K] floating, what multiplies the update: the third row of the modulation of the norm *before* it.
        tokens: M / B, rows of one sample; needed where B is not 1.

    Returns:
        The new stream [M, K] (x itself without an update), q [M, K] int8 and s [M, 1] fp32.

    Raises:
        InputError: A tensor does not fit.
    """
    x = matrix("x", x)
    count, channels = x.shape
    update = None if update is None else matrix("update", update, like=x)
    if gate is not None and update is None:
        raise InputError("a gate multiplies the update, and there is none")
    tokens = max(count, 1) if tokens is None else tokens
    if tokens < 1 or count % tokens:
        raise InputError(f"tokens={tokens} of {count} rows: it must divide them")
    batch = count // tokens
    weight, shift = _of_samples("weight", norm.weight, batch, channels), None
    if norm.shift is not None:
        shift = _of_samples("shift", norm.shift, batch, channels)
        if shift.shape != weight.shape or shift.stride() != weight.stride():
            weight, shift = weight.contiguous(), shift.contiguous()
        if shift.shape != weight.shape:
            raise InputError(f"the norm's shift {list(shift.shape)} must have its weight's shape {list(weight.shape)}")
    source = Source(
        norm.kind,
        x,
        second=update,
        gate=None if gate is None else _of_samples("gate", gate, batch, channels),
        weight=weight,
        shift=shift,
        stream=None if update is None else torch.empty(x.shape, dtype=x.dtype, device=x.device),
        tokens=tokens,
        eps=norm.eps,
    )
    q, s = quantized(source, steps.checked(channels, x.device))
    return x if source.stream is None else source.stream, q, s


def gated_quantize(gate: Tensor, steps: Steps, up: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round what enters an MLP's last product: gelu(gate) * up, or GELU alone (by its tanh approximation).

    Args:
        gate: [M, K] floating; its dtype is that of every rounding.
        steps: Of the product's input.
        up: [M, K] like `gate`, or None: there is no product (the vision tower's MLP).

    Returns:
        q [M, K] int8 and s [M, 1] fp32.
    """
    gate = matrix("gate", gate)
    up = None if up is None else matrix("up", up, like=gate)
    source = Source("gelu" if up is None else "geglu", gate, second=up)
    return quantized(source, steps.checked(gate.shape[1], gate.device))


def _of_samples(name: str, tensor: Tensor, batch: int, channels: int) -> Tensor:
    """Return a norm's or gate's [K] or [B or 1, K] with neighbouring channels side by side."""
    fits = tensor.dim() in (1, 2) and tensor.shape[-1] == channels and (tensor.dim() == 1 or len(tensor) in (1, batch))
    if not fits or tensor.dtype not in FLOATS:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise InputError(f"{name} must be floating [{channels}] or [1 or {batch}, {channels}], not {found}")
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
