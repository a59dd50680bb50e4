"""The residual stream between two products: what the last one came to is added, and the sum normalized, in one op."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.ops import fused
from vlapack.ops.activation import Activation
from vlapack.pi0.fused.products import Outcome, Product, Ready
from vlapack.pi0.gemma import NORM_EPS, RMSNorm


@dataclass(frozen=True)
class Norm:
    """A norm by the words of `ops.fused_reference`.

    Attributes:
        kind: `rms`, `adaptive` or `layer`.
        weight: [K], or [B or 1, K] if adaptive.
        shift: like weight; None for `rms`.
        eps: of the norm.
        gate: [B or 1, K], times which the sublayer's output is added; None: times one.
    """

    kind: str
    weight: Tensor
    shift: Tensor | None
    eps: float
    gate: Tensor | None = None

    @classmethod
    def of_gemma(cls, norm: RMSNorm, modulation: Tensor | None) -> Norm:
        """A Gemma norm; `modulation` [B or 1, 3, K] is its factor, shift and gate if it is adaptive."""
        if modulation is None:
            return cls("rms", norm.weight, None, NORM_EPS)
        factor, shift, gate = modulation.unbind(1)
        return cls("adaptive", factor, shift, NORM_EPS, gate)

    @classmethod
    def of_layer(cls, norm: nn.LayerNorm) -> Norm:
        """A LayerNorm."""
        return cls("layer", norm.weight, norm.bias, norm.eps)


class Stream:
    """The residual stream [M, K], with what is still to be added to it.

    Args:
        x: [M, K].
        tokens: M / B, rows of one sample.
    """

    def __init__(self, x: Tensor, tokens: int) -> None:
        """Begin with nothing to add."""
        self.x = x
        self._tokens = tokens
        self._update: Outcome | None = None
        self._gate: Tensor | None = None

    def owe(self, update: Outcome, gate: Tensor | None = None) -> None:
        """Have `update` times `gate` [B or 1, K] added by the next norm."""
        assert self._update is None
        self._update, self._gate = update, gate

    def enter(self, product: Product, norm: Norm) -> Ready:
        """Add what is owed, normalize, and make the result ready for a product."""
        arguments = (*self._arguments(norm), *product.entering)
        if product.rounds:
            stream, q, s = fused.norm_quantize(*arguments, *product.rounding)
            return self._moved(stream, Activation(q, s, q.shape[:1], self.x.dtype))
        kept = self.x.dtype if product.step is None else torch.float32
        stream, y = fused.norm_transform(*arguments, product.first_rotation, dtype=kept)
        return self._moved(stream, y if product.step is None else Activation(y, None, y.shape[:1], self.x.dtype))

    def leave(self, norm: Norm, dtype: torch.dtype) -> Tensor:
        """Add what is owed and normalize for the last time: [M, K], rounded as the stream is, in `dtype`."""
        stream, y = fused.norm_transform(*self._arguments(norm), dtype=dtype)
        self._moved(stream, y)
        last: Tensor = y
        return last

    def _arguments(self, norm: Norm) -> tuple[Any, ...]:
        update = (None,) * 4 if self._update is None else (self._update.values, *self._update.ending)
        return self.x, norm.kind, norm.weight, norm.shift, norm.eps, self._tokens, *update, self._gate

    def _moved(self, stream: Tensor, ready: Ready) -> Ready:
        if self._update is not None:
            self.x, self._update, self._gate = stream, None, None
        return ready
