"""The action expert's part of a denoise step as one call of the CPU's engine (csrc/step.cpp).

Results are those of `gemma.FusedLayer` to the bit; what is saved is the calls, and a start of threads for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from vlapack.linear import PackedLinear
from vlapack.methods.round import largest_activation
from vlapack.ops import layouts
from vlapack.ops.cpu import PANEL, Steps, address
from vlapack.ops.cpu_fused import KINDS
from vlapack.ops.engine import kernels
from vlapack.pi0.cache import Past
from vlapack.pi0.config import GemmaConfig
from vlapack.pi0.fused.products import Product
from vlapack.pi0.gemma import NORM_EPS, RMSNorm


class Layer(Protocol):
    """A fused layer: its products, in the order in which they run, and its two norms."""

    products: list[Product]
    norms: tuple[RMSNorm, RMSNorm]


class Step:
    """A stack whose products all multiply integers on the CPU's engine.

    Args:
        config: of the stack.
        layers: fused.
        norm: behind the last.
    """

    def __init__(self, config: GemmaConfig, layers: Sequence[Layer], norm: RMSNorm) -> None:
        """Note where everything lies; weights that move or are replaced need a new one."""
        self._kept: list[Any] = []
        self._copied: list[tuple[Tensor, int]] = []
        sizes = config.width, config.num_heads, config.num_kv_heads, config.head_dim
        self._expert = kernels.Expert(*sizes, NORM_EPS, self._weight(norm))
        for layer in layers:
            products = [self._product(product) for product in layer.products]
            self._expert.add_layer(products, *(self._weight(one) for one in layer.norms))

    @classmethod
    def of(cls, config: GemmaConfig, layers: Sequence[Layer], norm: RMSNorm) -> Step | None:
        """Make one, or None where some product is of another kind."""
        fit = all(product.rounds and _weights(product) for layer in layers for product in layer.products)
        return cls(config, layers, norm) if fit else None

    def takes(self, x: Tensor, past: Sequence[Past]) -> bool:
        """Whether the engine has the stream's dtype, keys and values lie as it reads them, and copies still hold."""
        bf16 = x.dtype == torch.bfloat16
        if x.dtype not in KINDS or any(_version(tensor) != version for tensor, version in self._copied):
            return False
        return all(
            one.keys.dtype == one.values.dtype == x.dtype
            and one.keys.is_contiguous()
            and one.values.is_contiguous()
            and one.room == x.shape[1]
            and (one.laid is not None or not bf16)
            for one in past
        )

    def __call__(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        exists: Tensor | None,
        past: Sequence[Past],
        modulations: Tensor | None,
        *,
        state_token: bool,
    ) -> Tensor:
        """Run the stack, and the norm behind it; arguments and result as in `FusedGemma.forward`.

        Where each token has its own, modulations are [B · T, 2 · layers + 1, 3, width].
        """
        batch, tokens, width = x.shape
        x = x.contiguous()
        cos, sin = (table.contiguous() for table in rope)
        modulations = None if modulations is None else modulations.float().contiguous()
        exists = None if exists is None else exists.contiguous()
        out = torch.empty(batch, tokens, width)
        places = [
            (one.keys.data_ptr(), one.values.data_ptr(), *((0, 0) if one.laid is None else map(address, one.laid)))
            for one in past
        ]
        self._expert.step(
            x.dtype == torch.bfloat16,
            batch,
            tokens,
            x.data_ptr(),
            address(modulations),
            0 if modulations is None or len(modulations) == 1 else modulations.stride(0),
            tokens if modulations is None or len(modulations) <= batch else 1,
            cos.data_ptr(),
            sin.data_ptr(),
            0 if len(cos) == 1 else cos.stride(0),
            places,
            past[0].keys.shape[2],
            address(exists),
            state_token,
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out

    def _weight(self, norm: RMSNorm) -> int:
        """Where the weight of a plain norm lies; 0 for an adaptive one."""
        return 0 if norm.dense is not None else self._keep(self._in_fp32(norm.weight))

    def _product(self, product: Product) -> tuple[Any, ...]:
        step = product.step
        assert step is not None
        channels = product.channels
        steps = Steps(channels, step.smooth, step.permutation, step.rotation, step.pre_rotation)
        self._kept.append(steps)
        weights = [
            (rows, self._keep(weight), bits, self._keep(scale), group or 0, self._keep(self._in_fp32(bias)))
            for rows, weight, bits, scale, group, bias in _weights(product)
        ]
        return channels, steps.addresses, self._keep(step.input_scale), largest_activation(step.act_bits), weights

    def _in_fp32(self, tensor: Tensor | None) -> Tensor | None:
        """The values as the kernels read them; of a copy, its source must not have changed when it is read."""
        if tensor is None:
            return None
        values = tensor.detach().float()
        if values.data_ptr() != tensor.data_ptr():
            self._copied.append((tensor, _version(tensor)))
        return values

    def _keep(self, tensor: Tensor | None) -> int:
        self._kept.append(tensor)
        return address(tensor)


def _version(tensor: Tensor) -> int:
    """A number that changes with the values; those of an inference tensor stay."""
    return 0 if tensor.is_inference() else tensor._version


def _weights(product: Product) -> list[tuple[int, Tensor, int, Tensor, int | None, Tensor | None]]:
    """Rows, weight, bits, scales, group size and bias of each weight; nothing if the engine cannot run one of them."""
    found: list[tuple[int, Tensor | None, Tensor | None, int | None, Tensor | None]]
    if product.merged:
        found = [(sum(one.sizes), one.weight, one.weight_scale, one.group_size, one.bias) for one in product.merged]
    else:
        linears = [one for one in product.linears if isinstance(one, PackedLinear) and one.row_rotation is None]
        if len(linears) < len(product.linears):
            return []
        found = [(one.out_features, one.weight_prepared, one.weight_scale, one.group_size, one.bias) for one in linears]
    weights = []
    for rows, weight, scale, group_size, bias in found:
        if weight is None or scale is None or layouts.engine_of(weight) != "cpu":
            return []
        weights.append((rows, weight, weight.shape[2] // PANEL, scale, group_size, bias))
    return weights
