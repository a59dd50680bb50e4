"""Bringing attention back to the float network's temperature and strength (QuantVLA, arXiv 2602.20309: ATM and OHB).

Rounding errors widen or narrow the logits of an attention head, as another softmax temperature would, and make what
attention adds to the residual stream stronger or weaker. Both are undone by one number each: α for a head's queries
(attention temperature matching), β for a layer's output (output head balancing).
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST, LARGEST = 0.7, 1.4
"""No factor leaves this range: a larger mismatch is not one of scale."""
NEUTRAL = 0.03
"""A mismatch of up to 3 % is left alone."""


def attention_logits(query: Tensor, key: Tensor) -> Tensor:
    """Return q · k / √D in fp32 for every head, query and key: [B, H, T, S].

    Args:
        query: [B, T, H, D] after RoPE. RoPE is linear, so α on a head's queries before it is α on its logits.
        key: [B, G, S, D] after RoPE; the H / G heads of a group, which follow each other, share its keys.
    """
    batch, tokens, heads, width = query.shape
    groups = key.shape[1]
    rows = query.float().transpose(1, 2).reshape(batch, groups, heads // groups * tokens, width)
    logits: Tensor = rows @ key.float().transpose(2, 3) * width**-0.5
    return logits.reshape(batch, heads, tokens, -1)


def matching_factor(wanted: Tensor, found: Tensor) -> Tensor:
    """Return wanted / found, 1 within `NEUTRAL` and where either is zero, and else within `SMALLEST` and `LARGEST`.

    α is that of the logits' standard deviations of a head, β that of the root mean squares of a layer's output; the
    float network's are wanted, the quantized one's found.

    Args:
        wanted: Any shape, not negative, finite.
        found: Of the same shape.
    """
    ratio = torch.where((wanted == 0) | (found == 0), 1.0, wanted / found)
    return torch.where((ratio - 1).abs() <= NEUTRAL, 1.0, ratio.clamp(SMALLEST, LARGEST))


def scale_rows(tensor: Tensor, factors: Tensor) -> Tensor:
    """Multiply the rows of a weight, or of its scales, by factors that each stand for equally many neighbouring rows.

    Args:
        tensor: [N, ...], floating.
        factors: [H], H a divisor of N.

    Returns:
        [N, ...] in the dtype of `tensor`.
    """
    rows = factors.double().repeat_interleave(len(tensor) // len(factors))
    return (tensor.double() * rows[:, None]).to(tensor.dtype)
