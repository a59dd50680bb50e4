"""How the products read weights: rows filled up to whole blocks of 128 channels.

A prepared weight is uint8 [N, blocks, planes, 64], and its planes tell its bits:

- 4 bits, one plane: byte j holds channel j of the block in its low half and channel 64 + j in its high half, as two's
  complement. Shifting a byte left by 4, or masking its low half, leaves 16 times a weight as int8, so the kernel
  unpacks 8 weights in three instructions, and each half is 64 neighboring channels.
- 8 bits, two planes: the pack's own order.

The channels that fill up a row have weight 0. Everything here is plain torch on whatever device the weight is on, and
needs about three times the layer's bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops.int4 import PER_WORD

BLOCK = 128
HALF = BLOCK // 2
CHANNELS = (1 << 31) // (128 * 128) - 1
"""Above these channels a sum may not fit into 32 bits, for either width: a 4-bit weight is multiplied as 16 of it."""

_SIGNS = 0x88
"""Flips the highest bit of both nibbles of a byte: between the pack's value + 8 and two's complement."""


def prepare(stored: Tensor, bits: int, in_features: int) -> Tensor:
    """Lay out a pack's weight for the kernels: int32 [N, ceil(K / 8)] of 4 bits, or int8 [N, K] of 8.

    An 8-bit weight whose rows are whole blocks is not copied: the result shares its memory.

    Raises:
        InputError: Another dtype or shape, or more input channels than a 32-bit sum holds.
    """
    if bits not in (4, 8):
        raise InputError(f"weights of {bits} bits: the triton engine multiplies 4 or 8")
    if in_features > CHANNELS:
        raise InputError(
            f"a layer of {in_features} input channels: the triton engine's sums hold {CHANNELS}; "
            "set VLAPACK_ENGINE=reference"
        )
    dtype, columns = (torch.int32, -(-in_features // PER_WORD)) if bits == 4 else (torch.int8, in_features)
    if stored.dtype != dtype or stored.dim() != 2 or stored.shape[1] != columns:
        raise InputError(
            f"{in_features} {bits}-bit weights a row need {dtype} [N, {columns}], "
            f"not {stored.dtype} {list(stored.shape)}"
        )
    shape = prepared_shape(bits, len(stored), in_features)
    if bits == 8:
        if not stored.is_contiguous() or in_features % BLOCK:
            stored = torch.nn.functional.pad(stored, (0, -in_features % BLOCK)).contiguous()
        return stored.view(torch.uint8).view(shape)
    first, second = _signed_pairs(stored, in_features, shape[1]).unbind(2)
    # Pairs of neighbors become pairs 64 channels apart: even channels are low halves, odd ones high halves.
    prepared = first.new_empty(len(stored), shape[1], HALF // 2, 2)
    torch.bitwise_or(first & 0x0F, second << 4, out=prepared[..., 0])
    torch.bitwise_or(first >> 4, second & 0xF0, out=prepared[..., 1])
    return prepared.view(shape)


def restore(prepared: Tensor, out_features: int, in_features: int) -> Tensor:
    """Return the weight that `prepare` was given, [out_features, ...] in the pack's layout; never a view."""
    bits = bits_of(prepared)
    expected = prepared_shape(bits, out_features, in_features)
    if prepared.shape != expected:
        raise InputError(
            f"a prepared weight of {out_features} x {in_features} at {bits} bits is {list(expected)}, "
            f"not {list(prepared.shape)}"
        )
    if bits == 8:
        channels = prepared.view(out_features, -1)[:, :in_features]
        return channels.clone(memory_format=torch.contiguous_format).view(torch.int8)
    pairs = prepared.view(out_features, -1, HALF // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    bytes_ = prepared.new_empty(out_features, pairs.shape[1], 2, HALF // 2)
    torch.bitwise_or(even & 0x0F, odd << 4, out=bytes_[:, :, 0])
    torch.bitwise_or(even >> 4, odd & 0xF0, out=bytes_[:, :, 1])
    stored = bytes_.view(out_features, -1)[:, : 4 * -(-in_features // PER_WORD)].contiguous()
    stored ^= _SIGNS
    _clear(stored, in_features)
    return stored.view(torch.int32)


def bits_of(prepared: Tensor) -> int:
    """Return 4 or 8, the bits of a prepared weight.

    Raises:
        InputError: It is no prepared weight.
    """
    if prepared.dtype != torch.uint8 or prepared.dim() != 4 or prepared.shape[2] not in (1, 2):
        raise InputError(
            "a weight prepared for the triton engine is uint8 [N, ceil(K / 128), 1 or 2, 64], "
            f"not {prepared.dtype} {list(prepared.shape)}"
        )
    return 4 * prepared.shape[2]


def prepared_shape(bits: int, out_features: int, in_features: int) -> tuple[int, int, int, int]:
    """Return the shape of what `prepare` returns."""
    return out_features, -(-in_features // BLOCK), bits // 4, HALF


def interleave(gate: Tensor, up: Tensor) -> Tensor:
    """Return the rows of `gate` and `up` [F, ...] in turns, [2 F, ...], as `product.gated_product` reads them.

    For prepared weights, their scales and their biases.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise InputError(
            f"gate {gate.dtype} {list(gate.shape)} and up {up.dtype} {list(up.shape)} must have one shape and dtype"
        )
    return torch.stack((gate, up), dim=1).flatten(0, 1)


def separate(both: Tensor) -> tuple[Tensor, Tensor]:
    """Return gate and up [F, ...], contiguous copies, from what `interleave` made of them."""
    gate, up = both.view(-1, 2, *both.shape[1:]).unbind(1)
    return gate.clone(memory_format=torch.contiguous_format), up.clone(memory_format=torch.contiguous_format)


def _signed_pairs(stored: Tensor, in_features: int, blocks: int) -> Tensor:
    """Return the nibbles in the pack's order as two's complement, uint8 [N, blocks, 2, 32], weight 0 beyond K."""
    words = stored.contiguous().view(torch.uint8)
    pairs = words.new_zeros(len(stored), HALF * blocks)
    inside = pairs[:, : words.shape[1]]
    torch.bitwise_xor(words, _SIGNS, out=inside)
    _clear(inside, in_features)
    return pairs.view(len(stored), blocks, 2, HALF // 2)


def _clear(pairs: Tensor, in_features: int) -> None:
    """Set the nibbles beyond K in `pairs`, bytes of two channels, to zero."""
    whole, odd = divmod(in_features, 2)
    if odd:
        pairs[:, whole] &= 0x0F
    pairs[:, whole + odd :] = 0
