"""What the transform before a packed layer does to outliers: the largest |x| of every channel, before and after.

The packed policy acts once on each of a few observations, and the inputs of its activation steps are watched. One
channel that is far larger than the others takes most of the integers' range; a rotation spreads it over its block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlapack.checkpoints.base import Checkpoint
from vlapack.linear import PackedLinear
from vlapack.ops import library
from vlapack.ops.activation import ActivationStep
from vlapack.policy.policy import Policy


@dataclass(frozen=True)
class Outliers:
    """One group's input channels.

    Attributes:
        layers: the layers that read this input.
        before, after: the largest magnitude of each channel.
    """

    layers: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]

    @property
    def ratio_before(self) -> float:
        """The largest channel over the root mean square of all."""
        return _ratio(self.before)

    @property
    def ratio_after(self) -> float:
        """The same after the transform."""
        return _ratio(self.after)


def outliers(checkpoint: Checkpoint, observations: Sequence[Mapping[str, Any]]) -> list[Outliers]:
    """Measure every group whose transform is applied when it runs, the strongest outlier first.

    A transform that is folded into other weights leaves no "before" to look at, so such groups are missing.

    Args:
        checkpoint: a pack.
        observations: a few; each is one action chunk.
    """
    policy = Policy.from_checkpoint(checkpoint)
    readers: dict[ActivationStep, list[str]] = {}
    for name, module in policy.model.named_modules():
        if isinstance(module, PackedLinear) and module.inputs.rotation is not None:
            readers.setdefault(module.inputs, []).append(name)
    seen: dict[ActivationStep, tuple[Tensor, Tensor]] = {}

    def watch(step: ActivationStep, x: Tensor) -> None:
        rows = x.reshape(-1, x.shape[-1]).float()
        steps = (step.smooth, step.permutation, step.rotation, step.pre_rotation)
        found = rows.abs().amax(0), library.transform_activation(rows, *steps).abs().amax(0)
        earlier = seen.get(step, found)
        seen[step] = found[0].maximum(earlier[0]), found[1].maximum(earlier[1])

    hooks = [step.register_forward_pre_hook(lambda _, inputs, step=step: watch(step, inputs[0])) for step in readers]
    try:
        for observation in observations:
            policy.infer(dict(observation), generator=torch.Generator().manual_seed(0))
    finally:
        for hook in hooks:
            hook.remove()
    measured = [
        Outliers(tuple(readers[step]), tuple(before.tolist()), tuple(after.tolist()))
        for step, (before, after) in seen.items()
    ]
    return sorted(measured, key=lambda group: -group.ratio_before)


def _ratio(channels: Sequence[float]) -> float:
    values = torch.tensor(channels)
    rms = float(values.square().mean().sqrt())
    return float(values.max()) / rms if rms else 1.0
