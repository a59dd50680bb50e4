"""The Gemma transformer (arXiv 2403.08295), plain for the language model and with adaptive norms for π0.5's expert.

Both stacks run in step: the language model's keys and values of a layer are what the expert's same layer attends to.
So a layer here takes the keys and values that came before it, and `keys_values` alone is enough where nobody reads
a layer's output (the last layer of the language model).
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, rms_norm

from vlapack.linear import project
from vlapack.pi0.attention import attend
from vlapack.pi0.cache import KeysValues, Past
from vlapack.pi0.config import GemmaConfig
from vlapack.pi0.positions import rotate

NORM_EPS = 1e-6

Modulation: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""An adaptive norm's factor and shift in fp32, and its gate in the stream's dtype: each [B or 1, 1 or T, width]."""


class RMSNorm(nn.Module):
    """x / rms(x), computed in fp32, times 1 + weight.

    With `cond_dim` it is adaptive (adaRMS, as DiT's adaLN, arXiv 2212.09748): a linear of the condition gives scale,
    shift and the gate of the residual that follows, and there is no weight of its own. The condition is the flow time
    and no more, so what that linear makes of it (`modulation`) is computed apart from the norm, and kept.
    """

    def __init__(self, width: int, cond_dim: int | None = None) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        self.dense: nn.Linear | None = None
        if cond_dim is None:
            self.weight = nn.Parameter(torch.zeros(width))
        else:
            self.dense = nn.Linear(cond_dim, 3 * width)

    def modulation(self, cond: Tensor) -> Tensor:
        """Condition [B, cond_dim] → factor 1 + scale, shift and gate, [B, 3, width] fp32."""
        assert self.dense is not None
        scale, shift, gate = self.dense(cond).float().chunk(3, dim=-1)
        return torch.stack((1.0 + scale, shift, gate), dim=1)

    def forward(self, x: Tensor, modulation: Modulation | None = None) -> tuple[Tensor, Tensor | None]:
        """Normalize [B, T, width], with the `modulation` if adaptive; returns (y, gate)."""
        normed = rms_norm(x.float(), x.shape[-1:], eps=NORM_EPS)
        if modulation is None:
            return (normed * (1.0 + self.weight.float())).to(x.dtype), None
        factor, shift, gate = modulation
        return torch.addcmul(shift, normed, factor).to(x.dtype), gate


class Attention(nn.Module):
    """Multi-query attention: `num_heads` queries share `num_kv_heads` keys and values."""

    def __init__(self, config: GemmaConfig) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        self.config = config
        width, head_dim = config.width, config.head_dim
        self.q_proj = nn.Linear(width, config.num_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.num_kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.num_kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_heads * head_dim, width, bias=False)

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> KeysValues:
        """Only the keys and values of [B, T, width]."""
        key, value = project(x, self.k_proj, self.v_proj)
        return self._split(key, value, rope)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, past: Past | None
    ) -> tuple[Tensor, KeysValues]:
        """Attend from [B, T, width] to `past` and to itself.

        Args:
            x: [B, T, width].
            rope: The table of the positions of x.
            mask: [B, 1, T · heads / kv heads or 1, S] over past and own keys together, or None.
            past: What to attend to before its own keys.

        Returns:
            [B, T, width], and its own keys and values.
        """
        batch, tokens = x.shape[:2]
        query, key, value = project(x, self.q_proj, self.k_proj, self.v_proj)
        query = rotate(query.view(batch, tokens, self.config.num_heads, -1), rope)
        key, value = own = self._split(key, value, rope)
        if past is not None:
            key, value = past.followed_by(key, value)

        # The queries that share a key are rows of one product: [B, T, G·R, D] → [B, G, T·R, D]. With one kv head
        # this moves no memory, and the keys are never repeated per head.
        groups, shared = self.config.num_kv_heads, self.config.num_heads // self.config.num_kv_heads
        rows = query.view(batch, tokens, groups, shared, -1).transpose(1, 2).flatten(2, 3)
        mixed = attend(rows, key, value, mask).view(batch, groups, tokens, shared, -1)
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), own

    def _split(self, key: Tensor, value: Tensor, rope: tuple[Tensor, Tensor]) -> KeysValues:
        """Cut [B, T, kv heads · D] into heads and turn the keys."""
        heads = (*key.shape[:2], self.config.num_kv_heads, self.config.head_dim)
        return rotate(key.view(heads), rope).transpose(1, 2), value.view(heads).transpose(1, 2)


class MLP(nn.Module):
    """Gated: down(gelu(gate(x)) · up(x)), GELU by its tanh approximation."""

    def __init__(self, config: GemmaConfig) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_dim, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_dim, bias=False)
        self.down_proj = nn.Linear(config.mlp_dim, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        gate, up = project(x, self.gate_proj, self.up_proj)
        y: Tensor = self.down_proj(gelu(gate, approximate="tanh") * up)
        return y


class Layer(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: GemmaConfig, cond_dim: int | None) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.width, cond_dim)
        self.post_attention_layernorm = RMSNorm(config.width, cond_dim)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        past: Past | None = None,
        modulations: tuple[Modulation | None, Modulation | None] = (None, None),
    ) -> tuple[Tensor, KeysValues]:
        """[B, T, width] → the same, and the layer's own keys and values.

        Arguments as in `Attention.forward`, and the modulations of the two norms where they are adaptive.
        """
        normed, gate = self.input_layernorm(x, modulations[0])
        mixed, keys_values = self.self_attn(normed, rope, mask, past)
        x = _gated_sum(x, mixed, gate)
        normed, gate = self.post_attention_layernorm(x, modulations[1])
        return _gated_sum(x, self.mlp(normed), gate), keys_values


class GemmaModel(nn.Module):
    """A stack of layers and a final norm; the language model's also holds the token embedding."""

    def __init__(self, config: GemmaConfig, *, vocab_size: int | None = None, cond_dim: int | None = None) -> None:
        """Allocate on the current default device; meta works.

        Args:
            config: Sizes.
            vocab_size: Rows of the token embedding; None for the expert, which has none.
            cond_dim: Width of the condition that modulates the norms; None for plain norms.
        """
        super().__init__()
        self.config = config
        if vocab_size is not None:
            # The weight is given for the same reason as in siglip, and to draw no half billion random numbers.
            rows = torch.zeros(vocab_size, config.width)
            self.embed_tokens = nn.Embedding(vocab_size, config.width, _weight=rows)
        self.layers = nn.ModuleList(Layer(config, cond_dim) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, cond_dim)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [B, L] → [B, L, width], scaled by √width as Gemma does."""
        rows: Tensor = self.embed_tokens(tokens)
        scaled: Tensor = rows * self.config.width**0.5
        return scaled

    def keys_values(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, *, room: int = 0, stop_early: bool = True
    ) -> list[Past]:
        """Run the stack for what others attend to: the keys and values of every layer.

        Args:
            x: [B, T, width].
            rope: The rotary table of their positions, each [B or 1, T, 1, D].
            mask: [B, 1, 1, T] boolean, true for tokens that exist, or None when all do.
            room: Tokens that are to follow, see `Past`.
            stop_early: Let the last layer stop at its keys and values, since nothing reads its output.
        """
        collected = []
        for index in range(len(self.layers)):
            x, own = self.advance(index, x, rope, mask, stop_early=stop_early)
            collected.append(Past.with_room(own, room) if room else Past(*own))
        if not stop_early:
            self.norm(x)
        return collected

    def advance(
        self, index: int, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None, *, stop_early: bool = True
    ) -> tuple[Tensor, KeysValues]:
        """Run one layer of `keys_values`: its output (a last layer that stops early returns its input), its own."""
        layer: Layer = self.layers[index]  # type: ignore[assignment]
        if index < len(self.layers) - 1 or not stop_early:
            advanced, own = layer(x, rope, mask)
            return advanced, own
        normed, _ = layer.input_layernorm(x)
        return x, layer.self_attn.keys_values(normed, rope)

    def modulations(self, cond: Tensor) -> Tensor:
        """Condition [B, cond_dim] → what every adaptive norm makes of it, [B, 2 · layers + 1, 3, width] fp32."""
        norms = [module for module in self.modules() if isinstance(module, RMSNorm)]
        return torch.stack([norm.modulation(cond) for norm in norms], dim=1)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past: list[Past],
        modulations: Tensor | None = None,
    ) -> Tensor:
        """Run the stack on [B, T, width], each layer attending to `past` of its index, then the final norm.

        `rope` and `mask` are as in `Attention.forward`;
        `modulations` [B or 1, 2 · layers + 1, 3, width] is what adaptive norms need; [B, T, …] has each token's own.
        """
        of_norms: list[Modulation | None] = [None] * (2 * len(self.layers) + 1)
        if modulations is not None:
            of_norms = [*_of_norms(modulations, x.dtype)]
        for index, (layer, before) in enumerate(zip(self.layers, past, strict=True)):
            x, _ = layer(x, rope, mask, before, (of_norms[2 * index], of_norms[2 * index + 1]))
        y: Tensor = self.norm(x, of_norms[-1])[0]
        return y


def _of_norms(modulations: Tensor, dtype: torch.dtype) -> list[Modulation]:
    """Cut [B or 1, norms, 3, width] or [B, T, norms, 3, width] into the norms' own, every gate cast at once."""
    by_token = modulations.permute(0, 2, 3, 1, 4) if modulations.dim() == 5 else modulations[:, :, :, None]
    factors, shifts, gates = by_token.unbind(2)
    return list(zip(factors.unbind(1), shifts.unbind(1), gates.to(dtype).unbind(1), strict=True))


def _gated_sum(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    return x + y if gate is None else torch.addcmul(x, y, gate)
