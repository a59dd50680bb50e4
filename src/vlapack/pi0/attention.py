"""Scaled dot-product attention as every part of the network uses it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from vlapack.ops import attention_reference, fused


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention softmax(q kᵀ / √D) v, on any device: fused, so that its weights [Q, S] are never in memory.

    Two exceptions, both of CPUs. Under autocast it computes in fp32: the backward pass of bf16 attention is five times
    slower there. And in bf16 it is an op of ours, or where a derivative is wanted the two products that define it:
    torch's fused kernel does not use bf16's instructions.

    Args:
        query: [B, G, Q, D].
        key: [B, G, S, D].
        value: [B, G, S, D].
        mask: Boolean, broadcastable to [B, G, Q, S]; true where a query sees a key. None: everywhere.

    Returns:
        [B, G, Q, D] in the dtype of `value`.
    """
    if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            mixed = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
        return mixed.to(value.dtype)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        way: Callable[..., Tensor] = attention_reference.attend if torch.is_grad_enabled() else fused.attend
        return way(query, key, value, mask)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def backend(*, fused: bool) -> AbstractContextManager[None]:
    """Where attention runs fused as usual, or else in separate products, its weights [Q, S] written to memory."""
    return nullcontext() if fused else sdpa_kernel(SDPBackend.MATH)
