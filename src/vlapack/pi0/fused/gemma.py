"""The Gemma stacks, fused: ten kernels a layer on GPUs, and keys and values written where they are read.

A layer whose q, k and v differ in bits takes eleven: neighbors with the same bits are one product.
The interface and the results are those of `pi0.gemma.GemmaModel`, whose modules hold the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.ops import cpu_attention, fused
from vlapack.ops.activation import Activation
from vlapack.ops.attention_reference import by_token
from vlapack.pi0.attention import attend
from vlapack.pi0.cache import Past
from vlapack.pi0.fused.norms import Norm, Stream
from vlapack.pi0.fused.products import Product, Ready
from vlapack.pi0.fused.step import Step
from vlapack.pi0.gemma import GemmaModel, Layer


class FusedLayer:
    """The products of one layer.

    Args:
        layer: the plain one.
        keeps_only: whether nothing but its keys and values is wanted; the rest of the layer may then lack weights.
    """

    def __init__(self, layer: Layer, *, keeps_only: bool = False) -> None:
        """Merge q, k and v, and gate and up."""
        attention, mlp = layer.self_attn, layer.mlp
        self._config = attention.config
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.keeps_only = keeps_only
        if keeps_only:
            self._entry = Product(attention.k_proj, attention.v_proj)
            self.products = [self._entry]
            return
        self._entry = Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self._mixing = Product(attention.o_proj)
        self._gate_up = Product(mlp.gate_proj, mlp.up_proj, in_turns=True)
        self._down = Product(mlp.down_proj)
        self.products = [self._entry, self._mixing, self._gate_up, self._down]

    def understand(self, stream: Stream, rope: tuple[Tensor, Tensor], seen: Tensor | None, past: Past) -> None:
        """Run the layer on a prefix: its keys and values go into `past`, and the stream moves on.

        Args:
            stream: the prefix's, M = B · P.
            rope: the table of its positions, each [B or 1, P, 1, D].
            seen: [B, 1, 1, P], the mask of `attend`, or None.
            past: buffers of this layer.
        """
        query = self._turned(stream, Norm.of_gemma(self.norms[0], None), rope, past, 0)
        if self.keeps_only:
            return
        key, value = past.prefix
        mixed = attend(self._rows(query), key, value, seen)
        self._finish(stream, self._mixing.ready(by_token(mixed, self._shared)), (None, None))

    def act(
        self,
        stream: Stream,
        rope: tuple[Tensor, Tensor],
        exists: Tensor | None,
        past: Past,
        modulations: tuple[Tensor | None, Tensor | None],
        *,
        state_token: bool,
    ) -> None:
        """Run the layer on the few tokens of a denoise step, which attend to `past` and to themselves.

        Args:
            stream: theirs, M = B · T.
            rope: the table of their positions.
            exists: [B, P] boolean, which of the prefix's tokens exist; None: all.
            past: what the language model's layer left, with room for T tokens.
            modulations: of the two norms, each [B or 1, 3, K], where they are adaptive.
            state_token: whether the first token sees the prefix and itself only.
        """
        norm = Norm.of_gemma(self.norms[0], modulations[0])
        query = self._turned(stream, norm, rope, past, past.length)
        options = {"shared": self._shared, "prefix": past.length, "state_token": state_token}
        arguments = (self._rows(query), past.keys, past.values, exists)
        mixing = self._mixing
        ready: Ready
        if mixing.rounds:
            q, s = fused.attend_quantize(*arguments, *mixing.entering, *mixing.rounding, **options)
            ready = Activation(q, s, q.shape[:1], query.dtype)
        else:
            ready = mixing.ready(by_token(fused.attend_few(*arguments, **options), self._shared))
        self._finish(stream, ready, (norm.gate, modulations[1]))

    @property
    def _shared(self) -> int:
        """Heads of the queries that share a key."""
        return self._config.num_heads // self._config.num_kv_heads

    def _turned(self, stream: Stream, norm: Norm, rope: tuple[Tensor, Tensor], past: Past, first: int) -> Tensor:
        """Write keys and values from token `first` on; return the queries [B, T, heads, D]."""
        product, *others = self._entry.pieces(stream.enter(self._entry, norm), most=2)
        rest = [argument for other in others for argument in (other.values, *other.ending)]
        heads = 0 if self.keeps_only else self._config.num_heads
        query: Tensor = fused.turn_and_keep(
            product.values, *rope, past.keys, past.values, first, *product.ending, *rest, heads=heads
        )
        return query

    def _finish(self, stream: Stream, mixed: Ready, gating: tuple[Tensor | None, Tensor | None]) -> None:
        """Run what follows attention; `gating` is the gate of the first norm and the modulation of the second."""
        stream.owe(self._mixing.unfinished(mixed), gating[0])
        norm = Norm.of_gemma(self.norms[1], gating[1])
        entered = stream.enter(self._gate_up, norm)
        stream.owe(self._down.unfinished(self._gate_up.gated(entered, self._down)), norm.gate)

    def _rows(self, query: Tensor) -> Tensor:
        """[B, T, heads, D] → [B, G, T · shared, D], as `gemma.Attention` has it; with one G a view."""
        batch, tokens, _, width = query.shape
        heads = (batch, tokens, self._config.num_kv_heads, self._shared, width)
        return query.view(heads).transpose(1, 2).flatten(2, 3)


class FusedGemma:
    """A stack, as the language model or as the expert.

    Args:
        model: the plain stack, with its weights.
        stop_early: whether of the last layer only keys and values are wanted.
    """

    def __init__(self, model: GemmaModel, *, stop_early: bool = False) -> None:
        """Merge the products of one layer after another."""
        self._config = model.config
        self._norm = model.norm
        last = len(model.layers) - 1
        self.layers = [
            FusedLayer(layer, keeps_only=stop_early and index == last)  # type: ignore[arg-type]
            for index, layer in enumerate(model.layers)
        ]
        self._step = None if stop_early else Step.of(self._config, self.layers, self._norm)

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor], exists: Tensor | None, room: int) -> list[Past]:
        """Run the stack on a prefix for what others attend to.

        Args:
            x: [B, P, width].
            rope: the table of their positions, each [B or 1, P, 1, D].
            exists: [B, P] boolean; None when all do.
            room: tokens that are to follow, see `Past`.
        """
        batch, tokens, width = x.shape
        seen = None if exists is None else exists[:, None, None, :]
        if seen is not None and seen.device.type != "cpu":
            # The logarithm of a truth value: 0 or -∞, added to the logits. torch would make it in every layer.
            seen = torch.log(seen, out=x.new_empty(seen.shape))
        stream, found = Stream(x.reshape(batch * tokens, width), tokens), []
        for layer in self.layers:
            shape = (batch, self._config.num_kv_heads, tokens + room, self._config.head_dim)
            past = Past(x.new_empty(shape), x.new_empty(shape), room)
            layer.understand(stream, rope, seen, past)
            if room and cpu_attention.lays_out(past.keys):
                past = past._replace(laid=cpu_attention.laid_out(past.keys, past.values, tokens))
            found.append(past)
        return found

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        exists: Tensor | None,
        past: list[Past],
        modulations: Tensor | None,
        *,
        state_token: bool,
    ) -> Tensor:
        """Run the stack on a denoise step's tokens, then the final norm; arguments as in `FusedLayer.act`.

        Args:
            x: [B, T, width].
            rope: see there.
            exists: see there.
            past: of every layer.
            modulations: [B or 1, 2 · layers + 1, 3, width] for adaptive norms, or [B, T, …] with each token's own.
            state_token: see there.

        Returns:
            [B, T, width], fp32 of what the stream's dtype rounds to.
        """
        batch, tokens, width = x.shape
        by_token = modulations is not None and modulations.dim() == 5
        if modulations is not None and by_token:
            modulations = modulations.flatten(0, 1)
        if self._step is not None and self._step.takes(x, past):
            return self._step(x, rope, exists, past, modulations, state_token=state_token)
        count = 2 * len(self.layers) + 1
        of_norms = (None,) * count if modulations is None else modulations.unbind(1)
        # To its norms each such token is a sample of its own.
        stream = Stream(x.reshape(batch * tokens, width), 1 if by_token else tokens)
        for index, (layer, before) in enumerate(zip(self.layers, past, strict=True)):
            two = of_norms[2 * index], of_norms[2 * index + 1]
            layer.act(stream, rope, exists, before, two, state_token=state_token)
        return stream.leave(Norm.of_gemma(self._norm, of_norms[-1]), torch.float32).view(batch, tokens, width)
