"""The SigLIP vision tower (arXiv 2303.15343) as PaliGemma uses it: patches in, one token per patch out, no pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from vlapack.linear import project
from vlapack.pi0.attention import attend
from vlapack.pi0.config import VisionConfig

NORM_EPS = 1e-6


class Embeddings(nn.Module):
    """Image → patch tokens with learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        patch = config.patch_size
        self.patch_embedding = nn.Conv2d(3, config.width, kernel_size=patch, stride=patch)
        # The weight is given because drawing one on meta makes torch import sympy, 1.5 s of every `inspect`.
        positions = torch.zeros(config.num_patches, config.width)
        self.position_embedding = nn.Embedding(config.num_patches, config.width, _weight=positions)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, patches, width], in the patch kernel's dtype."""
        tokens: Tensor = self.patches(images) + self.position_embedding.weight
        return tokens

    def patches(self, images: Tensor) -> Tensor:
        """Do the same without positions."""
        embedded: Tensor = self.patch_embedding(images.to(self.patch_embedding.weight.dtype))
        return embedded.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Full self-attention over the patches of one image."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        self.num_heads = config.num_heads
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.q_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        heads = (*x.shape[:2], self.num_heads, -1)
        query, key, value = (y.view(heads).transpose(1, 2) for y in project(x, self.q_proj, self.k_proj, self.v_proj))
        mixed: Tensor = self.out_proj(attend(query, key, value).transpose(1, 2).flatten(2))
        return mixed


class MLP(nn.Module):
    """Two linears with a tanh-approximated GELU between them."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        y: Tensor = self.fc2(gelu(self.fc1(x), approximate="tanh"))
        return y


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        x = x + self.self_attn(self.layer_norm1(x))
        y: Tensor = x + self.mlp(self.layer_norm2(x))
        return y


class Encoder(nn.Module):
    """The stack of layers; a module of its own because openpi's names say `encoder.layers`."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the residual stream: that of the layer norms, which are never packed."""
        norm = self.layers[0].get_submodule("layer_norm1")
        return norm.get_parameter("weight").dtype

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] → [B, T, width]."""
        for layer in self.layers:
            x = layer(x)
        return x


class SiglipTransformer(nn.Module):
    """The tower: embeddings, encoder, final norm."""

    def __init__(self, config: VisionConfig) -> None:
        """Allocate on the current default device; meta works."""
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.width, eps=NORM_EPS)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, image_size, image_size] in [-1, 1] → [B, patches, width] in the encoder's dtype."""
        x: Tensor = self.post_layernorm(self.encoder(self.embeddings(images).to(self.encoder.dtype)))
        return x
