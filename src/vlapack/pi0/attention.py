"""Scaled dot-product attention as every part of the network uses it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


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


def backend(*, fused: bool) -> AbstractContextManager[None]:
    """Where attention runs fused as usual, or else in separate products, its weights [Q, S] written to memory."""
    return nullcontext() if fused else sdpa_kernel(SDPBackend.MATH)
