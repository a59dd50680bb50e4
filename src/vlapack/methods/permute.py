"""Reordering channels so that no block of them carries all the outliers (DuQuant, NeurIPS 2024, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError


def zigzag(importance: Tensor, block: int) -> Tensor:
    """Deal the channels, largest first, back and forth over the blocks, so that the blocks' means even out.

    With G = K/B blocks, the G largest channels go to blocks 0, 1, ..., G-1, the next G to G-1, ..., 0, and so on.

    Args:
        importance: [K], such as each channel's activation absmax, or its weight energy. Equal values keep their order.
        block: B, the channels in a block; must divide K.

    Returns:
        The permutation p [K] int64 for `Transform`: its entries b*B to (b+1)*B are the channels of block b.

    Raises:
        InputError: B does not divide K, or an importance is NaN.
    """
    channels = importance.numel()
    if channels % block:
        raise InputError(f"cannot permute {channels} channels in blocks of {block}: the block must divide the channels")
    if importance.isnan().any():
        raise InputError("cannot sort the channels: an importance is NaN; check the calibration or the weights")
    dealt = torch.argsort(importance, descending=True, stable=True).view(block, channels // block)
    dealt[1::2] = dealt[1::2].flip(1)
    return dealt.T.reshape(-1)
