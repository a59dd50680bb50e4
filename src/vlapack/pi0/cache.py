"""Keys and values: what one stack's layer leaves behind for the layer of the same number in the other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]
"""Keys after RoPE and values of one layer, each [B, kv heads, T, head_dim]."""


class Past(NamedTuple):
    """Keys and values of one layer's prefix, in buffers that may have room behind them.

    A denoise step attends to the prefix and to itself. With room for its tokens it writes them there, instead of
    copying the whole prefix beside them: ten steps read a prefix that is written once.

    Attributes:
        keys: [B, kv heads, P + room, head_dim]; only the first P are the prefix's.
        values: The same of the values.
        room: Exactly as many tokens as are to follow, or 0: they are then copied.
        laid: The same keys and values as the CPU's attention reads them (`ops.cpu_attention`), if they were laid out.
    """

    keys: Tensor
    values: Tensor
    room: int = 0
    laid: KeysValues | None = None

    @classmethod
    def with_room(cls, keys_values: KeysValues, room: int) -> Past:
        """Copy a layer's keys and values into buffers that have room for `room` tokens more."""
        keys, values = (torch.nn.functional.pad(tensor, (0, 0, 0, room)) for tensor in keys_values)
        return cls(keys, values, room)

    @property
    def length(self) -> int:
        """P, the prefix's tokens."""
        return self.keys.shape[2] - self.room

    @property
    def prefix(self) -> KeysValues:
        """The prefix's keys and values alone, [B, kv heads, P, head_dim]."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def followed_by(self, key: Tensor, value: Tensor) -> KeysValues:
        """Return the prefix's keys and values and then these, [B, kv heads, P + T, head_dim].

        With room they are only good until the next call.
        """
        # What is written over cannot be differentiated, so callers that steer the flow by gradients get copies.
        if self.room and not torch.is_grad_enabled():
            self.keys[:, :, self.length :] = key
            self.values[:, :, self.length :] = value
            return self.keys, self.values
        keys, values = self.prefix
        return torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2)

    def repeat(self, times: int) -> Past:
        """Return the same for a batch that is repeated, [times · B, …]."""
        return Past(self.keys.repeat(times, 1, 1, 1), self.values.repeat(times, 1, 1, 1), self.room)
