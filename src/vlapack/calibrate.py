"""Watch the inputs of chosen layers while a model runs recorded observations.

Any model, any forward: `watch` hangs one observer on each named layer, runs the batches, and takes the hooks off again.
What an observer keeps is its own affair; the two here keep what smoothing and permutation (`calibrate`) and static
activation scales (`measure_reach`) need. The network trims padding and masked cameras before its layers run, so such
tokens never reach an observer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlapack.errors import InputError

# A histogram over float32's sign-free upper 16 bits: every bucket is 1/128 of an octave wide.
BUCKETS = 1 << 15


class Observer(Protocol):
    """Sees every input of one layer."""

    def update(self, x: Tensor) -> None:
        """Take in `x` [tokens, K], float32."""


class ChannelMax:
    """The largest magnitude of each input channel: `absmax` float32 [K] after the first token."""

    def __init__(self) -> None:
        """Start with no token seen."""
        self.absmax: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Take in `x` [tokens, K]."""
        seen = x.abs().amax(dim=0)
        self.absmax = seen if self.absmax is None else torch.maximum(self.absmax, seen)


class MagnitudeHistogram:
    """Percentiles of |x| over all tokens and channels, after `transform`.

    Counts are exact and independent of the batches' order and size; a percentile is the upper edge of its bucket, so
    it is at most 0.8 % too large.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        """Watch `transform(x)` instead of x."""
        self._transform = transform
        self._counts = torch.zeros(BUCKETS, dtype=torch.int64)

    def update(self, x: Tensor) -> None:
        """Take in `x` [tokens, K]."""
        magnitude = self._transform(x).abs().contiguous().reshape(-1)
        self._counts += torch.bincount(magnitude.view(torch.int32) >> 16, minlength=BUCKETS)

    def percentile(self, percent: float) -> float:
        """Return a magnitude that `percent` % of the values do not exceed; `percent` lies in (0, 100]."""
        total = int(self._counts.sum())
        bucket = int(torch.searchsorted(self._counts.cumsum(0).double(), total * percent / 100))
        edge = torch.tensor([min(bucket, BUCKETS - 1) + 1], dtype=torch.int32) << 16
        return float(edge.view(torch.float32)) if bucket else 0.0


@dataclass(frozen=True)
class Statistics:
    """What calibration learned of the layers' inputs; empty for weights-only."""

    absmax: Mapping[str, Tensor] = field(default_factory=dict)
    """Layer → largest magnitude per input channel, float32 [K]."""
    reach: Mapping[str, float] = field(default_factory=dict)
    """Layer → the magnitude of its transformed inputs that becomes the largest integer, for static scales."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Layer → how many input rows it saw."""

    def save(self, path: Path) -> None:
        """Write a safetensors file, exactly as `load` reads it."""
        tensors = {f"absmax/{name}": values for name, values in self.absmax.items()}
        tensors |= {f"reach/{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.reach.items()}
        tensors |= {f"tokens/{name}": torch.tensor(count) for name, count in self.tokens.items()}
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote."""
        found: dict[str, dict[str, Tensor]] = {"absmax": {}, "reach": {}, "tokens": {}}
        for key, values in load_file(path).items():
            kind, _, name = key.partition("/")
            found[kind][name] = values
        return cls(
            absmax=found["absmax"],
            reach={name: float(value) for name, value in found["reach"].items()},
            tokens={name: int(value) for name, value in found["tokens"].items()},
        )


def watch(
    model: nn.Module,
    observers: Mapping[str, Observer],
    forward: Callable[[Any], object],
    batches: Iterable[Any],
) -> dict[str, int]:
    """Call `forward` on every batch while `observers` (by layer name) see the inputs of the layers of `model`.

    Returns:
        How many input rows each layer saw.

    Raises:
        InputError: a layer got a NaN or an infinity, or was never reached.
    """
    tokens = dict.fromkeys(observers, 0)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            if not torch.isfinite(x).all():
                raise InputError(
                    f"calibration: the input of {name} holds a NaN or an infinity after {tokens[name]} tokens; "
                    "check the checkpoint's weights and the observations"
                )
            tokens[name] += x.shape[0]
            if x.shape[0]:
                observers[name].update(x)

        return see

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in observers]
    try:
        with torch.no_grad():
            for batch in batches:
                forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    unreached = [name for name, count in tokens.items() if count == 0]
    if unreached:
        raise InputError(
            f"calibration never reached {len(unreached)} of {len(observers)} layers, first {unreached[0]}: give "
            "observations that use them, exclude them, or quantize with --weights-only"
        )
    return tokens


def calibrate(
    model: nn.Module,
    layers: Sequence[str],
    forward: Callable[[Any], object],
    batches: Iterable[Any],
) -> Statistics:
    """Measure the largest magnitude of every input channel of `layers`, by their dotted names in `model`.

    Raises:
        InputError: a layer got a NaN or an infinity, or was never reached.
    """
    observers = {name: ChannelMax() for name in layers}
    tokens = watch(model, observers, forward, batches)
    return Statistics(
        absmax={name: seen.absmax for name, seen in observers.items() if seen.absmax is not None}, tokens=tokens
    )


def measure_reach(
    model: nn.Module,
    transforms: Mapping[str, Callable[[Tensor], Tensor]],
    percent: float,
    forward: Callable[[Any], object],
    batches: Iterable[Any],
) -> dict[str, float]:
    """Return the `percent` percentile of every layer's transformed input magnitudes: layer → magnitude.

    Raises:
        InputError: a layer got a NaN or an infinity, or was never reached.
    """
    observers = {name: MagnitudeHistogram(transform) for name, transform in transforms.items()}
    watch(model, observers, forward, batches)
    return {name: seen.percentile(percent) for name, seen in observers.items()}
