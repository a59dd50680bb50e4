"""Positions of tokens and times of the flow, as sines and cosines."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROPE_BASE = 10_000.0
MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0


def number_tokens(length: int, following: int, exists: Tensor | None, device: torch.device) -> Tensor:
    """Number the `length` tokens of a prefix and the `following` tokens behind them: [B or 1, length + following].

    Only tokens that exist count, so leaving some out moves none of the others.

    Args:
        length: T.
        following: tokens behind the prefix, all of which exist.
        exists: [B, T] boolean; None when all do.
        device: of the result.
    """
    if exists is None:
        return torch.arange(length + following, device=device)[None]
    counted = exists.cumsum(dim=1)
    behind = counted[:, -1:] + torch.arange(following, device=device)
    return torch.cat((counted - 1, behind), dim=1)


def rotary_table(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding (RoFormer, arXiv 2104.09864, eq. 34, in the half-split layout).

    Args:
        positions: [B, T] whole numbers.
        head_dim: D, even.
        dtype: Of the result; the angles are computed in fp32 whatever it is.

    Returns:
        Two tensors [B, T, 1, D], ready for `rotate` on [B, T, heads, D]; the sines of the first half are negated.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[:, :, None, None].float() * (1.0 / ROPE_BASE**exponents)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


class RotaryTables:
    """`rotary_table` of all positions up to some length, computed once: looking rows up takes few kernels.

    Args:
        head_dim: D, even.
    """

    def __init__(self, head_dim: int) -> None:
        """Begin with no positions."""
        self._head_dim = head_dim
        self._kept: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def reserve(self, count: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the cosines and sines [≥ count + 1, 1, D] of the positions from -1 on, which are kept."""
        kept = self._kept.get((dtype, device))
        if kept is None or len(kept[0]) <= count:
            cos, sin = rotary_table(torch.arange(-1, count, device=device)[None], self._head_dim, dtype)
            kept = self._kept[dtype, device] = cos[0], sin[0]
        return kept

    def look_up(
        self, length: int, following: int, exists: Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the rows of a prefix's tokens and of those behind it, each [B or 1, T, 1, D].

        Arguments as in `number_tokens`, and those of `reserve`, which must have been called for as many positions
        where this is captured.
        """
        tables = self.reserve(length + following, dtype, device)
        if exists is None:
            cos, sin = (table[None, 1 : 1 + length + following] for table in tables)
            return (cos[:, :length], sin[:, :length]), (cos[:, length:], sin[:, length:])
        counted = exists.cumsum(dim=1)  # one more than the position, as the tables' rows are numbered
        behind = counted[:, -1:] + torch.arange(1, following + 1, device=device)
        (cos, sin), (cos_behind, sin_behind) = ([table[rows] for table in tables] for rows in (counted, behind))
        return (cos, sin), (cos_behind, sin_behind)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x_i, x_{i+D/2}) of [B, T, heads, D] by its position's angle."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((second, first), dim=-1) * sin


def euler_times(num_steps: int) -> Tensor:
    """The flow times [num_steps] at which Euler steps from 1 towards 0 ask for a velocity, in fp32 on the CPU.

    Each is the one before it plus −1 / num_steps in fp32, as openpi has it: the embedding of a time turns by 2π·250 per
    unit, so that even the rounding of 1 − k/10 would show in the fifth digit of the actions.
    """
    times = [torch.ones(())]
    for _ in range(num_steps - 1):
        times.append(times[-1] + torch.tensor(-1.0 / num_steps))
    return torch.stack(times)


def sinusoidal_embedding(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of the flow time [B] at `width` / 2 periods from 0.004 to 4, in float64: [B, width]."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=t.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    angles = t[:, None].double() * (2 * math.pi / period)
    return torch.cat((angles.sin(), angles.cos()), dim=1)
