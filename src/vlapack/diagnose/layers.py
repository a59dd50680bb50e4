"""Every packed layer beside its float original, on identical inputs: what it loses, and to what.

The float network runs, so that no layer sees another one's error. At every call the packed layer is given the same
input; its output minus the float one is its error. The same weights with activations that are not rounded say which
part of it comes from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vlapack.diagnose.unfolded import Layer
from vlapack.methods.round import largest_activation
from vlapack.progress import progress
from vlapack.tune.trial import Trial

EVERY = 3
"""Of the calls of a chunk, every third is looked at closely: steps of the flow are alike, and that costs most."""


@dataclass
class Seen:
    """Running sums over the calls of one layer.

    Attributes:
        calls: squared error and squared size of the output, one pair per call of a chunk: ten for the expert's layers.
        weights: squared error with activations unrounded, and squared size of the output, at every third call.
        absmax: each input channel's largest magnitude [K], at all calls.
        crest_before: sum over tokens of the largest magnitude over the root mean square, at every third call.
        crest_after: the same behind the transform.
        rows: how many tokens these are.
        values: how many numbers.
        clipped: how many of them lie beyond a static scale's range.
    """

    calls: list[tuple[float, float]] = field(default_factory=list)
    weights: tuple[float, float] = (0.0, 0.0)
    absmax: Tensor = field(default_factory=lambda: torch.zeros(()))
    crest_before: float = 0.0
    crest_after: float = 0.0
    rows: int = 0
    values: int = 0
    clipped: int = 0

    @property
    def error(self) -> float:
        """‖packed − float‖ / ‖float‖ of the output."""
        return _ratio(sum(error for error, _ in self.calls), sum(size for _, size in self.calls))

    @property
    def weights_error(self) -> float:
        """The part of `error` that is there without rounded activations."""
        return _ratio(*self.weights)

    @property
    def by_call(self) -> list[float]:
        """`error` at each call of a chunk."""
        return [_ratio(error, size) for error, size in self.calls]

    @property
    def outlier(self) -> float:
        """How many times larger the input's largest channel is than its median one."""
        middle = float(self.absmax.median())
        return float(self.absmax.max()) / middle if middle else 0.0

    @property
    def crests(self) -> tuple[float, float]:
        """A token's largest magnitude over its root mean square, before and after the transform, on average.

        A row of int8 has 127 steps for its largest magnitude: the lower, the finer is what all others are rounded to.
        """
        return self.crest_before / max(self.rows, 1), self.crest_after / max(self.rows, 1)

    @property
    def clipped_part(self) -> float:
        """Which part of the transformed inputs a static scale cuts off."""
        return self.clipped / max(self.values, 1)


class _Eye:
    """Sees one layer's calls."""

    def __init__(self, layer: Layer, unrounded: nn.Module | None) -> None:
        self.seen = Seen()
        self.call = 0
        self._layer = layer
        self._unrounded = unrounded

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        x, seen = inputs[0], self.seen
        error, size = float((self._layer.module(x) - y).double().square().sum()), float(y.double().square().sum())
        if self.call == len(seen.calls):
            seen.calls.append((0.0, 0.0))
        seen.calls[self.call] = (seen.calls[self.call][0] + error, seen.calls[self.call][1] + size)
        self.call += 1
        rows = x.reshape(-1, x.shape[-1]).float()
        peaks = rows.abs().amax(0)
        seen.absmax = torch.maximum(seen.absmax.to(peaks.device), peaks)
        if self.call % EVERY != 1:
            return
        if self._unrounded is not None:
            lost = float((self._unrounded(x) - y).double().square().sum())
            seen.weights = (seen.weights[0] + lost, seen.weights[1] + size)
        turned = self._layer.left.inputs(self._layer.module.before.inputs(rows))
        seen.crest_before += float(_crest(rows).sum())
        seen.crest_after += float(_crest(turned).sum())
        seen.rows += len(rows)
        if self._layer.act_scale is not None:
            reach = (largest_activation(self._layer.selected.act_bits) + 0.5) * self._layer.act_scale
            seen.clipped += int((turned.abs() > reach).sum())
            seen.values += turned.numel()


@torch.no_grad()
def look(
    trial: Trial,
    layers: Mapping[str, Layer],
    unrounded: Mapping[str, nn.Module],
    numbers: Sequence[int],
    title: str,
) -> dict[str, Seen]:
    """Run the float policy on some observations, and every packed layer beside it.

    Args:
        trial: has the float policy, the observations and their noises.
        layers: of the pack.
        unrounded: the same with activations that are not rounded.
        numbers: of the observations.
        title: of the bar.
    """
    model = trial.policy.model
    eyes = {name: _Eye(layer, unrounded.get(name)) for name, layer in layers.items()}
    handles = [model.get_submodule(name).register_forward_hook(eye) for name, eye in eyes.items()]
    try:
        with progress(title, len(numbers)) as advance:
            for number in numbers:
                for eye in eyes.values():
                    eye.call = 0
                model.sample_actions(*trial.inputs[number].network, trial.noise[number])
                advance()
    finally:
        for handle in handles:
            handle.remove()
    return {name: eye.seen for name, eye in eyes.items()}


def _crest(rows: Tensor) -> Tensor:
    rms = rows.square().mean(1).sqrt()
    return torch.where(rms > 0, rows.abs().amax(1) / rms, 0.0)


def _ratio(error: float, size: float) -> float:
    return (error / size) ** 0.5 if size else 0.0
