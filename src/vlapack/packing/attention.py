"""How widely the expert's attention logits spread, and how strong its output is, while observations run.

Running sums are all that is kept: of each head's logits (those that no mask hides, the prefix's keys included, in all
denoise steps) and of what o_proj returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.errors import InputError
from vlapack.machine.gpu import CPU
from vlapack.methods.balance import attention_logits
from vlapack.packing.stages import passages, stages
from vlapack.packing.streaming import Forecast
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import filled
from vlapack.pi0.names import EXPERT
from vlapack.pi0.positions import rotate
from vlapack.policy.policy import Policy
from vlapack.progress import InterleavedProgress, meter


@dataclass(frozen=True)
class Strengths:
    """What one network's expert shows, by the layers of its attention."""

    logits: list[list[float]]
    """Standard deviation of the logits of each head."""
    outputs: list[float]
    """Root mean square of what o_proj returns."""


@torch.no_grad()
def attention_strengths(
    policy: Policy,
    observations: Sequence[Mapping[str, Any]],
    seed: int,
    dtype: torch.dtype,
    *,
    title: str,
    read: Callable[[str], Tensor] | None = None,
    device: torch.device = CPU,
) -> Strengths:
    """Run every observation's action chunks and return the strengths of the expert's attention.

    Args:
        policy: float or packed.
        observations: in the layout's keys.
        seed: of the noise.
        dtype: of the arithmetic, as in `pi0.load.load_weights`.
        title: what is shown beside the bar.
        read: a parameter's name → tensor, for a network on meta: it then has the weights of one block at a time.
        device: where the network is, or where `read` puts its weights.

    Raises:
        InputError: an observation that the policy cannot use, or attention that holds a NaN or an infinity.
    """
    abreast = passages(policy, observations, seed, device)
    way = stages(policy.model, dtype)
    with meter(title) as show, watched(policy.model) as probes:
        turns = InterleavedProgress(show, {title: 0.0})
        forecast = Forecast(way, abreast, partial(turns.reach, title))
        for stage in way:
            with nullcontext() if read is None else filled(policy.model, stage.modules, read, dtype):
                for passage in forecast.through(stage):
                    stage.run(passage)
    return Strengths([probe.logits.std.tolist() for probe in probes], [float(probe.output.rms) for probe in probes])


def attention_name(index: int) -> str:
    """Return the dotted name of the attention in the expert's layer of this index."""
    return f"{EXPERT}.layers.{index}.self_attn"


@dataclass
class Moments:
    """Count, sum and sum of squares, in float64, of some channels' values."""

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, values: Tensor) -> None:
        """Take in `values` [channels, n]."""
        wide = values.double()
        self.count += wide.shape[1]
        self.total = self.total + wide.sum(1)
        self.squares = self.squares + wide.square().sum(1)

    @property
    def rms(self) -> Tensor:
        """Root mean square [channels]."""
        return (self.squares / self.count).sqrt()

    @property
    def std(self) -> Tensor:
        """Standard deviation [channels]."""
        return (self.squares / self.count - (self.total / self.count).square()).clamp(min=0).sqrt()


class AttentionProbe:
    """Watches one attention layer: hooks for its q_proj and for itself.

    Args:
        name: the layer's, for messages.
    """

    def __init__(self, name: str) -> None:
        """Start with nothing seen."""
        self._name = name
        self.logits = Moments()
        self.output = Moments()
        self._query = torch.empty(0)

    def see_query(self, _module: nn.Module, _inputs: tuple[Any, ...], query: Tensor) -> None:
        """Keep what q_proj returned, [B, T, H · D], until the keys are known."""
        self._query = query

    def see(self, _module: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Tensor, tuple[Tensor, Tensor]]) -> None:
        """Add up one call of `pi0.gemma.Attention`.

        Raises:
            InputError: its logits or its output hold a NaN or an infinity.
        """
        x, rope, mask, past = inputs
        mixed, (key, _) = outputs
        query = rotate(self._query.view(*x.shape[:2], -1, key.shape[-1]), rope)
        keys = key if past is None else torch.cat((past.prefix[0], key), dim=2)
        logits = attention_logits(query, keys).transpose(0, 1)
        seen = torch.ones(logits.shape[1:], dtype=torch.bool, device=logits.device)
        if mask is not None:
            # [B, 1, T · heads or 1, S]: true where a query sees a key; the heads of a token see the same.
            seen = mask[:, 0, :: -(-mask.shape[2] // x.shape[1])].expand(logits.shape[1:])
        if not (logits.isfinite().all() and mixed.isfinite().all()):
            raise InputError(
                f"the logits or the output of {self._name} hold a NaN or an infinity; check the checkpoint's weights "
                "and the observations"
            )
        self.logits.add(logits[:, seen])
        self.output.add(mixed.reshape(1, -1))


@contextmanager
def watched(model: Pi0) -> Iterator[list[AttentionProbe]]:
    """Watch the attention of every layer of the expert while it runs."""
    probes, handles = [], []
    for index, layer in enumerate(model.expert.layers):
        attention, probe = layer.get_submodule("self_attn"), AttentionProbe(attention_name(index))
        handles.append(attention.get_submodule("q_proj").register_forward_hook(probe.see_query))
        handles.append(attention.register_forward_hook(probe.see))
        probes.append(probe)
    try:
        yield probes
    finally:
        for handle in handles:
            handle.remove()
