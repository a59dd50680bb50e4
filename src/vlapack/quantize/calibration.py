"""What calibration keeps of a layer's inputs, and how they are watched while a model runs.

One thing is kept: every channel's largest magnitude over all tokens, and an even sample of the tokens. Smoothing, the
order of channels, greedy rotations, static activation scales and GPTQ's Hessian all follow from it. The network trims
padding and masked cameras before its layers run, so such tokens are never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlapack.errors import InputError

MAX_TOKENS = 8192
"""Rows that a sample holds at most."""


@dataclass(frozen=True)
class LayerInputs:
    """What calibration keeps of the inputs [tokens, K] of one layer, or of several that read the same."""

    absmax: Tensor
    """Each channel's largest magnitude over every token, float32 [K]."""
    sample: Tensor
    """At most `MAX_TOKENS` of the tokens, [T, K]: bf16 where the model computes in bf16, else float32."""
    tokens: int
    """How many tokens there were."""

    def to(self, device: torch.device) -> LayerInputs:
        """Return the same on a device."""
        return replace(self, absmax=self.absmax.to(device), sample=self.sample.to(device))


class Observer(Protocol):
    """Sees every input of one layer."""

    def update(self, x: Tensor) -> None:
        """Take in `x` [..., K], in the model's dtype."""


class InputCollector:
    """Collects the `LayerInputs` of one layer, whatever the number and the size of its calls.

    Every token has the same chance to be in the sample (reservoir sampling: Vitter, ACM TOMS 1985, algorithm R), and
    the seed and the tokens' order alone decide which are: layers that see the same tokens keep the same ones, on any
    device.

    Args:
        layer: its name, for messages.
        seed: of the draw.
        max_tokens: rows that the sample holds at most.
        device: where the sample is kept; None: where the inputs are. Rows are picked before they are moved.
    """

    def __init__(
        self, layer: str, *, seed: int = 0, max_tokens: int = MAX_TOKENS, device: torch.device | None = None
    ) -> None:
        """Start with no token seen."""
        self._layer = layer
        self._draw = torch.Generator().manual_seed(seed)
        self._max_tokens = max_tokens
        self._device = device
        self._absmax = self._sample = torch.empty(0)
        self._tokens = 0

    def update(self, x: Tensor) -> None:
        """Take in `x` [..., K].

        Raises:
            InputError: it holds a NaN or an infinity.
        """
        rows = x.detach().reshape(-1, x.shape[-1])
        if not len(rows):
            return
        if rows.dtype != torch.bfloat16:
            rows = rows.float()
        absmax = rows.abs().amax(dim=0).float()
        if not absmax.isfinite().all():
            raise InputError(
                f"calibration: the input of {self._layer} holds a NaN or an infinity after {self._tokens} tokens; "
                "check the checkpoint's weights and the observations"
            )
        if not self._tokens:
            self._absmax = torch.zeros_like(absmax)
        self._absmax = torch.maximum(self._absmax, absmax)
        self._keep(rows)

    def _keep(self, rows: Tensor) -> None:
        """Fill the sample; once it is full, the n-th token replaces a random one with probability max_tokens / n."""
        seen = torch.arange(self._tokens, self._tokens + len(rows))
        places = torch.rand(len(rows), dtype=torch.float64, generator=self._draw).mul_(seen + 1).long()
        places = torch.where(seen < self._max_tokens, seen, places)
        latest = {place: row for row, place in enumerate(places.tolist()) if place < self._max_tokens}
        if latest:
            self._make_room(rows)
            self._sample[list(latest)] = rows[list(latest.values())].to(self._sample.device)
        self._tokens += len(rows)

    def _make_room(self, rows: Tensor) -> None:
        """Let the sample have places for `rows`, as far as it may grow."""
        needed = min(self._tokens + len(rows), self._max_tokens)
        if needed <= len(self._sample):
            return
        device = self._device or rows.device
        # A CPU's memory is only taken as it fills up, a GPU's at once.
        size = self._max_tokens if device.type == "cpu" else min(2 * needed, self._max_tokens)
        grown = rows.new_empty(size, rows.shape[1], device=device)
        if self._tokens:
            grown[: self._tokens] = self._sample[: self._tokens]
        self._sample = grown

    @property
    def nbytes(self) -> int:
        """Bytes that the sample takes so far."""
        return min(self._tokens, self._max_tokens) * self._sample.shape[-1] * self._sample.itemsize

    def inputs(self) -> LayerInputs:
        """Return what was collected.

        Raises:
            InputError: no token was ever seen.
        """
        if not self._tokens:
            raise InputError(
                f"calibration never reached {self._layer}: give observations that use it, `exclude` it, or quantize "
                "without any (`weights_only=True`) and with `rounding='rtn'`"
            )
        return LayerInputs(self._absmax.to(self._sample.device), self._sample[: self._tokens], self._tokens)


def watch(
    model: nn.Module, observers: Mapping[str, Observer], forward: Callable[[Any], object], batches: Iterable[Any]
) -> None:
    """Call `forward` on every batch while `observers` (by layer name) see the inputs of the layers of any `model`.

    Raises:
        InputError: whatever an observer or the forward raises.
    """

    def see(observer: Observer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _module, inputs: observer.update(inputs[0])

    handles = [model.get_submodule(name).register_forward_pre_hook(see(seen)) for name, seen in observers.items()]
    try:
        with torch.no_grad():
            for batch in batches:
                forward(batch)
    finally:
        for handle in handles:
            handle.remove()


def collect(
    model: nn.Module,
    layers: Iterable[str],
    forward: Callable[[Any], object],
    batches: Iterable[Any],
    *,
    seed: int = 0,
) -> dict[str, LayerInputs]:
    """Return the inputs of `layers`, by their dotted names in `model`.

    Raises:
        InputError: a layer got a NaN or an infinity, or was never reached.
    """
    collectors = {name: InputCollector(name, seed=seed) for name in layers}
    watch(model, collectors, forward, batches)
    return {name: collector.inputs() for name, collector in collectors.items()}
