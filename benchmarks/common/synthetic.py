"""Linear layers as large transformers have them: anisotropic weights, heavy-tailed inputs, a few huge channels.

Nothing is trained, so every property is known. A channel's size is log-normal, four channels are thirty times as
large, and the tails over tokens are Student's (4 degrees of freedom). Channels are correlated: each input is a mixture
of fewer factors. A weight's singular values fall like 1/√rank, and it is large where its inputs are small, as training
with a norm in front makes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from common.in_place import InPlace
from torch import Tensor, nn

from vlapack import Recipe
from vlapack.quantize.calibration import LayerInputs, collect

SHAPES = {"square": (384, 384), "up": (1024, 256), "down": (256, 1024), "odd": (320, 4 * 269)}
"""Layer → (N, K)."""
OUTLIERS, OUTLIER_SIZE, FREEDOM = 4, 30.0, 4
TOKENS = 2048
SEED = 20240607
"""Of the layers; calibration inputs come from the row's seed, test inputs from another."""
TEST_SEED = 1 << 20


class Synthetic:
    """The target `synthetic`: relative output error ‖y − y'‖ / ‖y‖ on inputs that calibration did not see."""

    name = "synthetic"
    preset = None
    identity = f"synthetic {SHAPES} {OUTLIERS} {OUTLIER_SIZE} {FREEDOM} {TOKENS} {SEED}"

    def __init__(self) -> None:
        self._channels, layers = {}, {}
        draw = torch.Generator().manual_seed(SEED)
        for name, (rows, columns) in SHAPES.items():
            self._channels[name] = _channel_sizes(columns, draw)
            layers[name] = nn.Linear(columns, rows, bias=False)
            layers[name].weight = nn.Parameter(_weight(rows, self._channels[name], draw), requires_grad=False)
        self._model = nn.ModuleDict(layers)
        self._mixing = {name: _mixing(len(sizes), draw) for name, sizes in self._channels.items()}
        self._test = self._inputs(TEST_SEED)
        self._packing = InPlace(self._model)
        self._seen = lru_cache(maxsize=1)(self._calibrate)  # rows come seed by seed

    def measure(self, recipe: Recipe, seed: int) -> dict[str, float]:
        """Return the mean over the layers."""
        everything = replace(recipe, scope="", include=".", seed=seed)
        packed = self._packing.quantized(everything, self._seen(seed))
        errors = []
        for name, x in self._test.items():
            y = self._model[name](x)
            errors.append(float((packed.get_submodule(name)(x) - y).norm() / y.norm()))
        return {"error": sum(errors) / len(errors)}

    def _calibrate(self, seed: int) -> Mapping[str, LayerInputs]:
        return collect(self._model, SHAPES, self._run, [self._inputs(seed)], seed=seed)

    def _run(self, inputs: dict[str, Tensor]) -> None:
        for name, x in inputs.items():
            self._model[name](x)

    def _inputs(self, seed: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(seed)
        return {name: _tokens(self._mixing[name], draw) * sizes for name, sizes in self._channels.items()}


def _channel_sizes(channels: int, draw: torch.Generator) -> Tensor:
    sizes = torch.randn(channels, generator=draw).mul(0.7).exp()
    sizes[torch.randperm(channels, generator=draw)[:OUTLIERS]] *= OUTLIER_SIZE
    return sizes


def _weight(rows: int, sizes: Tensor, draw: torch.Generator) -> Tensor:
    full = torch.randn(rows, len(sizes), generator=draw)
    u, s, v = torch.linalg.svd(full, full_matrices=False)
    falling = torch.arange(1, len(s) + 1).rsqrt()
    return (u * falling) @ v / sizes.sqrt()


def _mixing(channels: int, draw: torch.Generator) -> Tensor:
    """Half of a channel's variance comes from factors that it shares with others: [channels/4, channels]."""
    return torch.randn(channels // 4, channels, generator=draw) / math.sqrt(channels // 4)


def _tokens(mixing: Tensor, draw: torch.Generator) -> Tensor:
    """[TOKENS, K]; each token has one Student scale of its own, which makes the tails heavy."""
    chi = torch.randn(TOKENS, FREEDOM, generator=draw).square().mean(1, keepdim=True)
    shared = torch.randn(TOKENS, len(mixing), generator=draw) @ mixing
    own = torch.randn(TOKENS, mixing.shape[1], generator=draw)
    return (shared + own) / math.sqrt(2) / chi.sqrt()
