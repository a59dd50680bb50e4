"""What folding did to a tensor, found again from the tensor before and after it.

A pack does not store the steps that were folded into the layers before (`methods.fold`). Whoever wants to compare one
of its layers with the parent's needs them: which channel stands where, and by which factor it was divided. Rounded
weights still tell, since a row of 4-bit weights and its original have a cosine near 1, and other rows one near 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SKETCH = 96
"""Columns that a row is projected to: random rows then have cosines of about 0.1."""
ROWS_AT_ONCE = 1024


def found_order(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the permutation p [K] by which row i of every second tensor is made of row p[i] of its first.

    Several pairs that were reordered alike are looked at together, so that one damaged tensor does not decide.

    Args:
        pairs: tensors [K, F] before and after; F may differ from pair to pair. A positive factor per row is no matter.

    Returns:
        int64 [K]. Always a permutation: rows that nothing tells apart are assigned in their order.
    """
    before, after = (torch.cat([_sketch(pair[side]) for pair in pairs], dim=1) for side in (0, 1))
    likeness, order = zip(*((rows @ before.T).max(1) for rows in torch.split(after, ROWS_AT_ONCE)), strict=True)
    score, best = torch.cat(likeness), torch.cat(order)
    # Where several rows want one channel, the likest has it, and the others what is left.
    highest = torch.full_like(score, -torch.inf).scatter_reduce(0, best, score, "amax")
    sure = score == highest[best]
    sure &= torch.bincount(best[sure], minlength=len(before))[best] == 1
    taken = torch.zeros(len(before), dtype=torch.bool, device=best.device)
    taken[best[sure]] = True
    best[~sure] = torch.nonzero(~taken).flatten()
    return best


def found_scale(before: Tensor, after: Tensor, role: str) -> Tensor:
    """Return d [K] by which folding divided the channels that a tensor makes, in least squares.

    Args:
        before: the parent's tensor, [K, F] or [K]; adaRMS's weight is [3 K, F].
        after: the same in the pack, already back in the parent's order.
        role: how it makes the channels, as in `fold.FOLDS`; a `factor` takes no division.
    """
    rows, divided = (_channels(tensor.double(), role) for tensor in (before, after))
    size = divided.square().sum(1)
    return torch.where(size > 0, (rows * divided).sum(1) / size, 1.0).float()


def _channels(tensor: Tensor, role: str) -> Tensor:
    """Return what is divided by d, one row per channel."""
    if role == "one_plus":
        return (1 + tensor)[:, None]
    if role == "modulation":
        scale, shift, _ = tensor.chunk(3)
        return torch.cat((scale, shift), dim=1)
    return tensor.reshape(len(tensor), -1)


def _sketch(tensor: Tensor) -> Tensor:
    """Return the rows as unit vectors of few numbers."""
    rows = tensor.float()
    if rows.shape[1] > SKETCH:
        draw = torch.Generator().manual_seed(rows.shape[1])
        rows = rows @ torch.randn(rows.shape[1], SKETCH, generator=draw).to(rows.device)
    return torch.nn.functional.normalize(rows, dim=1)
