"""Eight 4-bit weights in one int32, as compressed-tensors' `pack-quantized` stores them.

Weight k of a row sits in word k // 8 at bits 4 * (k % 8), least significant nibble first, as value + 8. The nibbles
that fill up the last word are zero.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from vlapack.errors import InputError

PER_WORD = 8


def pack_int4(quantized: Tensor) -> Tensor:
    """Pack `quantized` [N, K] int8, values -8..7, into int32 [N, ceil(K / 8)].

    Raises:
        InputError: Another dtype, or a value that four bits cannot hold.
    """
    if quantized.dtype != torch.int8 or quantized.dim() != 2:
        raise InputError(f"pack_int4 takes an int8 matrix, not {quantized.dtype} {list(quantized.shape)}")
    if quantized.numel() and (quantized.amin() < -8 or quantized.amax() > 7):
        low, high = int(quantized.amin()), int(quantized.amax())
        raise InputError(f"weights from {low} to {high} do not fit into four bits: they must be from -8 to 7")
    nibbles = (quantized + 8).view(torch.uint8)
    nibbles = torch.nn.functional.pad(nibbles, (0, -nibbles.shape[1] % PER_WORD))
    return _words_from_bytes(nibbles[:, 0::2] | (nibbles[:, 1::2] << 4))


def unpack_int4(packed: Tensor, in_features: int) -> Tensor:
    """Return the int8 weights [N, K] in `packed` int32 [N, ceil(K / 8)], without the last word's filling.

    Raises:
        InputError: The words are not int32, or not as many as K needs.
    """
    words = -(-in_features // PER_WORD)
    if packed.dtype != torch.int32 or packed.dim() != 2 or packed.shape[1] != words:
        raise InputError(
            f"{in_features} 4-bit weights a row need int32 [N, {words}], not {packed.dtype} {list(packed.shape)}"
        )
    pairs = _bytes_from_words(packed)
    nibbles = torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(1)
    return nibbles.view(torch.int8).sub_(8)[:, :in_features]


def _words_from_bytes(pairs: Tensor) -> Tensor:
    return _little_endian(pairs.contiguous()).view(torch.int32)


def _bytes_from_words(packed: Tensor) -> Tensor:
    return _little_endian(packed.contiguous().view(torch.uint8))


def _little_endian(pairs: Tensor) -> Tensor:
    """Turn each word's four bytes around where the machine stores the most significant one first."""
    if sys.byteorder == "little" or pairs.device.type != "cpu":
        return pairs
    return pairs.reshape(len(pairs), -1, 4).flip(-1).flatten(1)
