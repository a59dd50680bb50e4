"""Every kind of product against the reference's integers, on the card; those of float numbers against float64."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from gpu.checks import Place, near, same
from vlapack.methods.rotate import hadamard
from vlapack.methods.round import group_count
from vlapack.ops import reference
from vlapack.ops.int4 import unpack_int4
from vlapack.ops.triton import layout, tiles
from vlapack.ops.triton.gradient import linear_gradient
from vlapack.ops.triton.product import gated_product, int_linear, int_sums
from vlapack.ops.triton.weight_only import float_linear

SHAPES = ((10, 2048, 1024), (50, 256, 1024), (544, 2048, 2048), (768, 4304, 1152), (33, 1152, 4304), (17, 33, 300))
SMALL = ((3, 5, 7), (17, 20, 150))
LONGEST = 16384
"""Channels of the longest row that π0.5 has."""


def exact_sums(place: Place, bits: int) -> None:
    """Integers alone, before any scale: what the tensor cores summed."""
    for m, n, k in (*(SMALL if place.small else SHAPES[::2]), (2, 16, 1024 if place.small else LONGEST)):
        stored, prepared = place.weight(n, k, bits)
        q, ones = place.integers(m, k), torch.ones(m, 1, device=place.device)
        found = int_linear(q, ones, prepared, torch.ones(n, 1, device=place.device), dtype=torch.float32)
        same(found, reference.integer_product(q, stored).float(), f"{m}x{n}x{k}")


def handed_on(place: Place, bits: int) -> None:
    """Sums that the next kernel ends, of strided rows as in a merged weight."""
    for m, n, k in SMALL if place.small else SHAPES[:2]:
        stored, prepared = place.weight(2 * n, k, bits)
        q = place.integers(m, k)
        found = int_sums(q, prepared[::2], n).sum(0, dtype=torch.int32)
        same(found, reference.integer_product(q, stored[::2]).to(torch.int32), f"{m}x{n}x{k}")


def scaled(place: Place, bits: int, group_size: int | None) -> None:
    """Scales, bias, residual and rounding, to the bit."""
    for number, (m, n, k) in enumerate(SMALL if place.small else SHAPES[:: 3 if group_size else 1]):
        stored, prepared = place.weight(n, k, bits)
        q, s, scale = place.integers(m, k), place.positive(m, 1) / k, _scales(place, n, k, group_size)
        dtype = place.dtype(number)
        bias, residual = place.normal(n, dtype=dtype), place.normal(m, n, dtype=dtype)
        expected = reference.int_linear(q, s, stored, scale, None, bias, dtype=dtype, group_size=group_size)
        options: dict[str, Any] = {"dtype": dtype, "group_size": group_size}
        if number % 2:
            expected, options["residual"] = expected + residual, residual
        same(int_linear(q, s, prepared, scale, None, bias, **options), expected, f"{m}x{n}x{k} to {dtype}")


def row_rotation(place: Place) -> None:
    """Rows that were rotated, and are rotated back."""
    m, n, k = (5, 48, 64) if place.small else (50, 2048, 1024)
    stored, prepared = place.weight(n, k, 4)
    q, s, scale, bias = place.integers(m, k), place.positive(m, 1), place.positive(n, 1), place.normal(n)
    turn = hadamard(16).to(place.device)
    expected = reference.int_linear(q, s, stored, scale, turn, bias, dtype=torch.float32)
    same(int_linear(q, s, prepared, scale, turn, bias, dtype=torch.float32), expected, f"{m}x{n}x{k}")


def every_split(place: Place) -> None:
    """Channels divided among programs, by more and by fewer than there are blocks."""
    m, n, k = (3, 20, 600) if place.small else (10, 1024, 4096)
    stored, prepared = place.weight(n, k, 4)
    q, s, scale, bias = place.integers(m, k), place.positive(m, 1) / k, place.positive(n, 1), place.normal(n)
    expected = reference.int_linear(q, s, stored, scale, None, bias, dtype=torch.float32)
    chosen = tiles.choose
    tile, _ = chosen(place.device, m, n, k)
    for parts in (1, 3, 8, 16):
        tiles.choose = lambda *sizes, parts=parts, **options: (tile, parts)
        try:
            found = int_linear(q, s, prepared, scale, None, bias, dtype=torch.float32)
        finally:
            tiles.choose = chosen
        same(found, expected, f"{parts} parts of {m}x{n}x{k}")


def any_strides(place: Place) -> None:
    """Inputs that do not lie row by row."""
    m, n, k = (6, 8, 256) if place.small else (48, 256, 1024)
    stored, prepared = place.weight(n, k, 4)
    q, s, scale = place.integers(m, k), place.positive(m, 1), place.positive(n, 1)
    expected = reference.int_linear(q, s, stored, scale, dtype=torch.float32)
    wide = torch.zeros(m, k + 44, dtype=torch.int8, device=place.device)
    wide[:, 44:] = q
    for what, view in (
        ("turned", q.T.contiguous().T),
        ("cut", wide[:, 44:]),
        ("every second", torch.stack((q, q), 2)[..., 1]),
    ):
        same(int_linear(view, s, prepared, scale, dtype=torch.float32), expected, what)


def no_finite_scale(place: Place) -> None:
    """A token whose scale is NaN: it comes out as NaN, and no other does."""
    _, prepared = place.weight(64, 128, 4)
    q, s = place.integers(40, 128), place.positive(40, 1)
    q[3], s[3] = 0, torch.nan
    found = int_linear(q, s, prepared, place.positive(64, 1), dtype=torch.bfloat16)
    same(found.isnan().all(1), torch.arange(40, device=place.device) == 3, "rows of NaN")


def gate_and_up(place: Place, bits: int, group_size: int | None) -> None:
    """Both halves of an MLP's first product, and GELU, in one."""
    for m, n, k in (
        ((5, 23, 300),)
        if place.small
        else ((10, 4096, 1024), (544, 1600, 2048), (17, 23, 300))[: 2 if group_size else 3]
    ):
        (gate, gate_ready), (up, up_ready) = (place.weight(n, k, bits) for _ in range(2))
        scales, biases = [_scales(place, n, k, group_size) for _ in range(2)], [place.normal(n) for _ in range(2)]
        q, s = place.integers(m, k), place.positive(m, 1) / (50 * k)  # values of a few units, where GELU bends
        options: dict[str, Any] = {"dtype": torch.float32, "group_size": group_size}
        joined = (layout.interleave(*pair) for pair in ((gate_ready, up_ready), scales, biases))
        found = gated_product(q, s, *joined, **options)
        first, second = (
            reference.int_linear(q, s, stored, scale, None, bias, **options)
            for stored, scale, bias in zip((gate, up), scales, biases, strict=True)
        )
        expected = gelu(first.double(), approximate="tanh") * second
        near(found, expected, 3e-5 * expected.abs() + 1e-6, f"{m}x{n}x{k}")


def float_inputs(place: Place, bits: int, group_size: int | None) -> None:
    """Activations that are not rounded."""
    for m, n, k in SMALL if place.small else ((10, 1024, 2048), (70, 256, 1024), (17, 33, 300)):
        stored, prepared = place.weight(n, k, bits)
        scale, x = _scales(place, n, k, group_size), place.normal(m, k)
        weights = _integers(stored, k).double() * _each(scale, k, group_size).double()
        found = float_linear(x, prepared, scale, dtype=torch.float32, group_size=group_size)
        size = x.double().abs() @ weights.abs().T
        near(found, x.double() @ weights.T, 4e-6 * (size + 1), f"{m}x{n}x{k}")


def backwards(place: Place, bits: int, group_size: int | None) -> None:
    """The derivative by a layer's inputs, as a multiple of its norm: gradients are multiplied as 16 bits each."""
    for m, n, k in SMALL if place.small else ((10, 1024, 4096), (10, 4096, 1024), (70, 256, 1024), (17, 33, 300)):
        stored, prepared = place.weight(n, k, bits)
        scale, way = _scales(place, n, k, group_size), place.normal(m, n)
        found = linear_gradient(way, prepared, scale, inputs=k, group_size=group_size)
        expected = way.double() @ (_integers(stored, k).double() * _each(scale, k, group_size).double())
        off = (found - expected).norm() / expected.norm()
        near(off, torch.zeros_like(off), torch.full_like(off, 1e-5), f"{m}x{n}x{k}")


def _scales(place: Place, n: int, k: int, group_size: int | None) -> Tensor:
    if group_size is None:
        return place.positive(n, 1)
    return place.positive(n, group_count(k, group_size), dtype=torch.bfloat16)


def _each(scale: Tensor, k: int, group_size: int | None) -> Tensor:
    return scale if group_size is None else scale.repeat_interleave(group_size, 1)[:, :k]


def _integers(stored: Tensor, k: int) -> Tensor:
    return unpack_int4(stored, k) if stored.dtype == torch.int32 else stored


CHECKS = {
    **{f"product {bits}-bit, sums": partial(exact_sums, bits=bits) for bits in (4, 8)},
    **{
        f"product {bits}-bit, groups of {group}" if group else f"product {bits}-bit, scaled": partial(
            scaled, bits=bits, group_size=group
        )
        for bits, group in ((4, None), (8, None), (4, 32), (4, 64), (4, 128), (8, 128))
    },
    **{f"product {bits}-bit, handed on": partial(handed_on, bits=bits) for bits in (4, 8)},
    "product, row rotation": row_rotation,
    "product, every split": every_split,
    "product, strides": any_strides,
    "product, NaN": no_finite_scale,
    **{
        f"gate and up {bits}-bit{f', groups of {group}' if group else ''}": partial(
            gate_and_up, bits=bits, group_size=group
        )
        for bits, group in ((4, None), (8, None), (4, 128))
    },
    **{
        f"float inputs {bits}-bit{f', groups of {group}' if group else ''}": partial(
            float_inputs, bits=bits, group_size=group
        )
        for bits, group in ((4, None), (8, None), (4, 128))
    },
    **{
        f"derivative {bits}-bit{f', groups of {group}' if group else ''}": partial(
            backwards, bits=bits, group_size=group
        )
        for bits, group in ((4, None), (8, None), (4, 32))
    },
}
