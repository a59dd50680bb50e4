"""Scaled dot-product attention as every part of the network uses it, and the rotary positions of Gemma."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

ROPE_BASE = 10_000.0


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention softmax(q kᵀ / √D) v, on any device.

    Under autocast on a CPU it computes in fp32: the backward pass of bf16 attention is five times slower there.

    Args:
        query: [B, G, Q, D].
        key: [B, G, S, D].
        value: [B, G, S, D].
        mask: Boolean, broadcastable to [B, G, Q, S]; true where a query sees a key. None: everywhere.

    Returns:
        [B, G, Q, D] in the dtype of `value`.
    """
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return scaled_dot_product_attention(query, key, value, attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        return scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask).to(value.dtype)


def rotary_table(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding (RoFormer, arXiv 2104.09864, eq. 34, in the half-split layout).

    Args:
        positions: [B, T] whole numbers.
        head_dim: D, even.
        dtype: Of the result; the angles are computed in fp32 whatever it is.

    Returns:
        Two tensors [B, T, 1, D], ready for `rotate` on [B, T, heads, D].
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[:, :, None, None].float() * (1.0 / ROPE_BASE**exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x_i, x_{i+D/2}) of [B, T, heads, D] by its position's angle."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
