"""A packed layer written out in float64: dense matrices for its transform, its weight and its row rotation.

What torch's autograd makes of it is what a packed layer's derivative is compared with; and a whole network of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.linear import PackedLinear
from vlapack.ops.int4 import unpack_int4
from vlapack.pi0.flow import Pi0
from vlapack.pi0.prefix import Prefix


class Dequantized:
    """The layer's parts, from the tensors that a pack stores for it.

    Attributes:
        transform: T [K, K], so that rows x become x T.
        weight: [N, K], scaled, as it multiplies x T.
        back: [N, N], what undoes the row rotation.
    """

    def __init__(self, layer: PackedLinear) -> None:
        held = {name: tensor.cpu() for name, tensor in layer.state_dict().items()}
        n, k = layer.out_features, layer.in_features
        four = layer.weight_bits == 4
        integers = unpack_int4(held["weight_packed"], k) if four else held["weight"]
        scale = held["weight_scale"].double()
        if layer.group_size is not None:
            scale = scale.repeat_interleave(layer.group_size, 1)[:, :k]
        self.weight = integers.double() * scale
        self.back = _blocks(held.get("row_rotation"), n).T
        self.bias = held["bias"].double() if "bias" in held else torch.zeros(n, dtype=torch.float64)
        turned = torch.eye(k, dtype=torch.float64)
        if "smooth" in held:
            turned = turned / held["smooth"].double()
        if "pre_rotation" in held:
            turned = turned @ _blocks(held["pre_rotation"], k)
        if "permutation" in held:
            turned = turned[:, held["permutation"].long()]
        self.transform = turned @ _blocks(held["rotation"], k) if "rotation" in held else turned
        self.act_bits, self.static = layer.inputs.act_bits, held.get("input_scale")

    def __call__(self, x: Tensor) -> Tensor:
        """[M, K] float64 → [M, N]: rounded activations, their rounding straight-through and their scales constant."""
        values = x @ self.transform
        if self.act_bits != 16:
            largest = {8: 127, 4: 7}[self.act_bits]
            peak = values.detach().abs().amax(-1, keepdim=True)
            step = torch.where(peak == 0, 1.0, peak / largest) if self.static is None else self.static.double()
            units = values / step
            values = (units + (units.round() - units).detach()).clamp(-largest, largest) * step
        return values @ self.weight.T @ self.back + self.bias

    def linear(self) -> Tensor:
        """The one matrix [N, K] that the layer is where nothing is rounded or clipped."""
        return (self.transform @ self.weight.T @ self.back).T


class Anchored(nn.Module):
    """The dequantized layer, moved to where the packed one was: what takes its output there is a constant."""

    def __init__(self, layer: PackedLinear, output: Tensor) -> None:
        super().__init__()
        exact = Dequantized(layer)
        self.weight, self.output = exact.linear(), output.double()

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T
        return y + (self.output - y).detach()


def in_float64(model: Pi0, outputs: Mapping[str, Tensor]) -> Pi0:
    """A copy of a network at the same point as a packed run whose layers had these outputs.

    The network's `.float()` is to be `.double()` while it runs.
    """
    twin = copy.deepcopy(model)
    for name, output in outputs.items():
        layer: Any = model.get_submodule(name)
        twin.set_submodule(name, Anchored(layer, output))
    return twin.double()


def doubled(prefix: Prefix) -> Prefix:
    """The same prefix for it."""
    layers = [past._replace(keys=past.keys.double(), values=past.values.double()) for past in prefix.layers]
    cos, sin = prefix.rope
    return replace(prefix, layers=layers, rope=(cos.double(), sin.double()))


def _blocks(blocks: Tensor | None, channels: int) -> Tensor:
    """The block-diagonal matrix of an orthogonal rotation."""
    if blocks is None:
        return torch.eye(channels, dtype=torch.float64)
    each = blocks.double()
    return torch.block_diag(*(each if len(each) > 1 else each.expand(channels // each.shape[1], -1, -1)))
