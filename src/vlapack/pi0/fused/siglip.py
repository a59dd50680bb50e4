"""The vision tower, fused: nine kernels a layer on GPUs. Interface and results are those of `SiglipTransformer`."""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.pi0.attention import attend
from vlapack.pi0.fused.norms import Norm, Stream
from vlapack.pi0.fused.products import Product
from vlapack.pi0.siglip import Layer, SiglipTransformer


class FusedLayer:
    """The products of one layer, q, k and v merged."""

    def __init__(self, layer: Layer) -> None:
        """Take the plain layer, with its weights."""
        attention, mlp = layer.self_attn, layer.mlp
        self._norms = (layer.layer_norm1, layer.layer_norm2)
        self._heads = attention.num_heads
        self._entry = Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self._mixing = Product(attention.out_proj)
        self._first = Product(mlp.fc1)
        self._second = Product(mlp.fc2)
        self.products = [self._entry, self._mixing, self._first, self._second]

    def run(self, stream: Stream, pictures: int) -> None:
        """Move the stream [pictures · patches, width] on by a layer."""
        outputs = self._entry.outputs(stream.enter(self._entry, Norm.of_layer(self._norms[0])))
        rows = len(outputs[0])
        query, key, value = (y.view(pictures, rows // pictures, self._heads, -1).transpose(1, 2) for y in outputs)
        mixed = attend(query, key, value).transpose(1, 2).reshape(rows, -1)
        stream.owe(self._mixing.unfinished(self._mixing.ready(mixed)))
        entered = self._first.unfinished(stream.enter(self._first, Norm.of_layer(self._norms[1])))
        stream.owe(self._second.unfinished(self._second.activated(entered, gated=False, dtype=stream.x.dtype)))


class FusedSiglip:
    """The tower.

    Args:
        model: the plain one, with its weights.
    """

    def __init__(self, model: SiglipTransformer) -> None:
        """Merge the products of one layer after another."""
        self._model = model
        self.layers = [FusedLayer(layer) for layer in model.encoder.layers]  # type: ignore[arg-type]

    def __call__(self, images: Tensor) -> Tensor:
        """[B, 3, image_size, image_size] in [-1, 1] → [B, patches, width] in the encoder's dtype."""
        x = self._embedded(images)
        pictures, patches, width = x.shape
        stream = Stream(x.reshape(pictures * patches, width), patches)
        for layer in self.layers:
            layer.run(stream, pictures)
        return stream.leave(Norm.of_layer(self._model.post_layernorm), x.dtype).view(x.shape)

    def _embedded(self, images: Tensor) -> Tensor:
        """Embed the patches, positions added, in the encoder's dtype: what the sum rounds to, written by the sum."""
        embeddings = self._model.embeddings
        patches = embeddings.patches(images)
        x = patches.new_empty(patches.shape, dtype=self._model.encoder.dtype)
        return torch.add(patches, embeddings.position_embedding.weight, out=x)
