"""How the products read weights: rows filled up to whole blocks of 128 channels.

A prepared weight tells its bits by its dtype:

- 4 bits: uint8 [N, 64 * blocks]. In each block, byte j holds channel j in its low half and channel 64 + j in its high
  half, as two's complement. Shifting a byte left by 4, or masking its low half, leaves 16 times a weight as int8, so
  the kernel unpacks 8 weights in three instructions, and each half is 64 neighboring channels.
- 8 bits: int8 [N, 128 * blocks], the pack's own order.

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

    An 8-bit weight whose rows are whole blocks is returned as it is, not copied.

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
    blocks = -(-in_features // BLOCK)
    if bits == 8:
        if stored.is_contiguous() and in_features == blocks * BLOCK:
            return stored
        prepared = stored.new_zeros(len(stored), blocks * BLOCK)
        prepared[:, :in_features] = stored
        return prepared
    source = _signed_pairs(stored, in_features, blocks)
    first, second = source.view(len(stored), blocks, 2, HALF // 2).unbind(2)
    # Pairs of neighbors become pairs 64 channels apart: even channels are low halves, odd ones high halves.
    prepared = source.new_empty(len(stored), blocks, HALF // 2, 2)
    torch.bitwise_or(first & 0x0F, second << 4, out=prepared[..., 0])
    torch.bitwise_or(first >> 4, second & 0xF0, out=prepared[..., 1])
    return prepared.view(len(stored), blocks * HALF)


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
        return prepared[:, :in_features].clone(memory_format=torch.contiguous_format)
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
    if prepared.dim() != 2 or prepared.dtype not in (torch.uint8, torch.int8):
        raise InputError(
            "a prepared weight is uint8 [N, 64 * ceil(K / 128)] or int8 [N, 128 * ceil(K / 128)], "
            f"not {prepared.dtype} {list(prepared.shape)}"
        )
    return 4 if prepared.dtype == torch.uint8 else 8


def prepared_shape(bits: int, out_features: int, in_features: int) -> tuple[int, int]:
    """Return the shape of what `prepare` returns."""
    return out_features, (HALF if bits == 4 else BLOCK) * -(-in_features // BLOCK)


def is_prepared(weight: Tensor, in_features: int) -> bool:
    """Whether the kernels can read `weight`; False for what is in a pack's layout only."""
    return weight.dtype == torch.uint8 or (weight.dtype == torch.int8 and weight.shape[-1] % BLOCK == 0 < in_features)


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
    gate, up = both.unflatten(0, (-1, 2)).unbind(1)
    return gate.clone(memory_format=torch.contiguous_format), up.clone(memory_format=torch.contiguous_format)


def _signed_pairs(stored: Tensor, in_features: int, blocks: int) -> Tensor:
    """Return the nibbles in the pack's order, as two's complement, uint8 [N, 64 * blocks], weight 0 beyond K."""
    words = stored.contiguous().view(torch.uint8)
    pairs = words.new_zeros(len(stored), HALF * blocks)
    inside = pairs[:, : words.shape[1]]
    torch.bitwise_xor(words, _SIGNS, out=inside)
    _clear(inside, in_features)
    return pairs


def _clear(pairs: Tensor, in_features: int) -> None:
    """Set the nibbles beyond K in `pairs`, bytes of two channels, to zero."""
    whole, odd = divmod(in_features, 2)
    if odd:
        pairs[:, whole] &= 0x0F
    pairs[:, whole + odd :] = 0
