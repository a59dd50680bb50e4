"""Activation steps, alone and with what stands before them, and attention: against the reference, on the card."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from gpu.checks import FLOATS, Integers, Place, WrongError, near, plain, rounded_alike, same
from vlapack.methods.rotate import hadamard
from vlapack.ops import attention_reference, fused_reference, reference
from vlapack.ops.triton import fused
from vlapack.ops.triton.activation import quantize_activation
from vlapack.ops.triton.attention import attend_few
from vlapack.ops.triton.attention_step import attend_quantize
from vlapack.ops.triton.steps import Steps
from vlapack.ops.triton.tiles import DECODE_TOKENS
from vlapack.ops.triton.turning import turn_and_keep
from vlapack.pi0.attention import attend

FEW = 1e-3
"""Of integers whose input comes from an exp or a norm's sum; a last bit of bf16 is half a step at most."""
ROTATED = 1e-4
"""Of integers after a rotation, which is float64 in the reference."""
HALF = 1e-3
"""From a half, in steps: as near as the reference is where a rotation's integer differs."""
WIDEST_SUMS = 8192
"""Channels of gate and up in turns that the kernel of rows is meant for."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Of attention, whose outputs are at most some 2."""


def unrotated(place: Place) -> None:
    """Smoothing, permutation, static scales, four bits: to the bit; rows of zeros, NaN and infinity among others."""
    for m, k in ((6, 33), (6, 130)) if place.small else ((10, 1024), (544, 2048), (33, 4304), (3, 16384)):
        x = place.normal(m, k) * 3
        for row, value in enumerate((0.0, torch.nan, torch.inf)[: m - 1]):
            x[row + 1, -1] = value
        smooth, order = place.positive(k), place.order(k)
        static = torch.tensor([0.01], device=place.device)
        kinds = (Steps(), Steps(smooth, order), Steps(None, order, bits=4), Steps(smooth, order, scale=static))
        for number, steps in enumerate(kinds):
            dtype = place.dtype(number + m)
            what = f"{m}x{k} {dtype}, {_said(steps)}"
            (q, s), (expected_q, expected_s) = _quantized(x.to(dtype), steps), plain(x.to(dtype), steps)
            same(q, expected_q, what)
            same(s, expected_s, f"{what}: scales")


def rotated(place: Place) -> None:
    """Hadamard and dense blocks; an integer may differ by one where the reference is almost at a half."""
    for m, k in ((4, 128),) if place.small else ((10, 1024), (544, 2048), (16, 4304), (16, 16384)):
        x = place.normal(m, k) * 3
        for steps in _steps(place, k):
            what = f"{m}x{k}, {_said(steps)}"
            found, expected = _quantized(x, steps), plain(x, steps)
            rounded_alike(found, expected, torch.float32, ROTATED, what)
            differs = found[0] != expected[0]
            turned = reference.transform_activation(
                x, steps.smooth, steps.permutation, steps.rotation, steps.pre_rotation
            )
            exact = turned / expected[1]
            if not bool(((exact - exact.floor() - 0.5).abs()[differs] < HALF).all()):
                raise WrongError(f"{what}: an integer differs where the reference is not at a half")


def norm(place: Place, kind: str) -> None:
    """A residual sum, of a product that is ended or not, a gate and a norm before the step."""
    batch, tokens, k = (2, 3, 80) if place.small else (1, 544, 2048) if kind == "rms" else (2, 10, 1024)
    if kind == "layer":
        k = 144 if place.small else 1152
    for number, steps in enumerate(_steps(place, k)):
        dtype = place.dtype(number + 1)  # the network's own first
        for parts in (0, 3):
            x = place.normal(batch * tokens, k, dtype=dtype) * 5
            update, ending = _product(place, batch * tokens, k, parts, dtype)
            affine, gate = _affine(place, kind, batch, k, dtype)
            what = f"{batch * tokens}x{k} {dtype}, {parts or 'no'} sums, {_said(steps)}"
            stream, *found = fused.norm_quantize(x, kind, *affine, tokens, update, *ending, gate, **vars(steps))
            # A gate's product and the sum may be one operation here or there: what comes next is held to our stream.
            summed, _ = fused_reference.normalized(x, kind, *affine, tokens, update, *ending, gate)
            bound = 0.0 if gate is None else 2 * torch.finfo(dtype).eps * summed.abs().double() + 1e-5
            near(stream, summed, bound, f"{what}: the stream")
            _, *expected = fused_reference.norm_quantize(stream, kind, *affine, tokens, **vars(steps))
            rounded_alike((found[0], found[1]), (expected[0], expected[1]), dtype, FEW, what)


def activation_of_mlp(place: Place) -> None:
    """GELU, with and without up, of products that are ended or not, before the step."""
    for m, k in ((5, 80),) if place.small else ((10, 4096), (544, 16384), (64, 4304)):
        for number, steps in enumerate(_steps(place, k)):
            dtype = place.dtype(number + 1)
            gate, up = place.normal(m, k, dtype=dtype) * 2, place.normal(m, k, dtype=dtype) * 2
            sums, ending = _product(place, m, 2 * k, 2, dtype)
            options = {"dtype": dtype, **vars(steps)}
            for said, arguments, gated in (
                ("gate and up", (gate, up), True),
                ("alone", (gate,), False),
                # Wider ones are one product of both, whose GELU is in its own kernel.
                *((("sums", (sums, None, *ending), True),) if m <= DECODE_TOKENS and k <= WIDEST_SUMS else ()),
            ):
                expected = fused_reference.gelu_quantize(*arguments, gated=gated, **options)
                found = fused.gelu_quantize(*arguments, gated=gated, **options)
                rounded_alike(found, expected, dtype, FEW, f"{m}x{k} {dtype}, {said}, {_said(steps)}")


def turning(place: Place) -> None:
    """Queries and keys turned by their positions, keys and values in the cache: to the bit."""
    batch, tokens, heads, width, before = (2, 3, 2, 16, 5) if place.small else (2, 10, 8, 256, 544)
    for number, (parts, own) in enumerate(((0, None), (3, None), (0, heads), (3, heads))):
        dtype = place.dtype(number + 1)
        product, ending = _product(place, batch * tokens, (own or heads + 2) * width, parts, dtype)
        rest, rest_ending = (None, ()) if own is None else _product(place, batch * tokens, 2 * width, parts, dtype)
        cos, sin = (place.normal(batch, tokens, 1, width, dtype=dtype) for _ in range(2))
        ours = [place.normal(batch, 1, before + tokens, width, dtype=dtype) for _ in range(2)]
        theirs = [tensor.clone() for tensor in ours]
        others = (rest, *rest_ending)
        found = turn_and_keep(product, cos, sin, *ours, before, *ending, *others, heads=heads)
        expected = attention_reference.turn_and_keep(product, cos, sin, *theirs, before, *ending, *others, heads=heads)
        what = f"{batch * tokens} tokens {dtype}, {parts or 'no'} sums, {'one product' if own is None else 'two'}"
        for said, one, other in zip(("queries", "keys", "values"), (found, *ours), (expected, *theirs), strict=True):
            same(one, other, f"{what}: {said}")


def attention(place: Place, *, state: bool) -> None:
    """A denoise step's queries over prefix and suffix, masked or not; and the step of the product behind it."""
    shared, width, prefix, suffix = (4, 16, 40, 2) if place.small else (8, 256, 544, 11 if state else 10)
    batch, k = 2, shared * width
    exists = (torch.rand(batch, prefix, generator=place.draw) < 0.8).to(place.device)
    for dtype in FLOATS[1:2] if place.small else FLOATS:
        query = place.normal(batch, 1, shared * suffix, width, dtype=dtype)
        key, value = (place.normal(batch, 1, prefix + suffix, width, dtype=dtype) for _ in range(2))
        for mask in (None, exists):
            options = {"shared": shared, "prefix": prefix, "state_token": state}
            found = attend_few(query, key, value, mask, **options)
            seen = _mask(mask, batch, prefix, suffix, shared, state=state, device=place.device)
            what = f"{dtype}{', masked' if mask is not None else ''}"
            near(found, attend(query.double(), key.double(), value.double(), seen), TOLERANCE[dtype], what)
            rows = found.view(batch, 1, suffix, shared, width).transpose(1, 2).reshape(-1, k)
            for steps in _steps(place, k)[: 3 if dtype == torch.bfloat16 else 0]:
                integers = attend_quantize(query, key, value, mask, **vars(steps), **options)
                rounded_alike(integers, plain(rows, steps), dtype, FEW, f"{what}, {_said(steps)}")


def _steps(place: Place, k: int) -> list[Steps]:
    """What our presets do; none; dense blocks and four bits; two rotations and a static scale. Small: the first."""
    dense, order = place.blocks(16), place.order(k)
    largest = next(size for size in (64, 32, 16) if k % size == 0)
    ours, static = hadamard(largest).float().to(place.device), torch.tensor([0.03], device=place.device)
    found = [
        Steps(place.positive(k), order, ours),
        Steps(),
        Steps(None, order, dense, bits=4),
        Steps(None, order, ours, static, pre_rotation=dense),
    ]
    return found[:1] if place.small else found


def _said(steps: Steps) -> str:
    names = ("smooth", "permutation", "rotation", "scale", "pre_rotation")
    there = ", ".join(name for name in names if getattr(steps, name) is not None)
    return f"{steps.bits} bits with {there or 'no step'}"


def _quantized(x: Tensor, steps: Steps) -> Integers:
    q, s = quantize_activation(
        x, steps.smooth, steps.permutation, steps.rotation, steps.scale, steps.bits, steps.pre_rotation
    )
    return q, s.expand(len(x), 1)


def _product(place: Place, m: int, n: int, parts: int, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """A product [M, N] of a few units; or so many int32 sums of it, and the scales and bias that end them."""
    if not parts:
        return place.normal(m, n, dtype=dtype), (None, None, None)
    sums = torch.randint(-(2**20), 2**20, (parts, m, n), generator=place.draw, dtype=torch.int32).to(place.device)
    return sums, (place.positive(m, 1) / 2**20, place.positive(n, 1), place.normal(n, dtype=dtype))


def _affine(
    place: Place, kind: str, batch: int, k: int, dtype: torch.dtype
) -> tuple[tuple[Tensor, Tensor | None, float], Tensor | None]:
    """A norm's weight, shift and eps, and the gate of the sum before it."""
    if kind == "adaptive":
        factor, shift, gate = place.normal(batch, 3, k).unbind(1)
        return (factor, shift, 1e-6), gate
    weight, shift = (place.normal(k, dtype=dtype) * 0.3 for _ in range(2))
    return (weight, shift if kind == "layer" else None, 1e-6), None


def _mask(
    exists: Tensor | None, batch: int, prefix: int, suffix: int, shared: int, *, state: bool, device: torch.device
) -> Tensor:
    """What each row may see: the prefix's tokens that exist, and the suffix; π0's state token itself alone of that."""

    def tokens() -> Iterator[Tensor]:
        for number in range(suffix):
            row = torch.ones(batch, prefix + suffix, dtype=torch.bool, device=device)
            if exists is not None:
                row[:, :prefix] = exists
            if state and number == 0:
                row[:, prefix + 1 :] = False
            yield row

    return torch.stack(list(tokens()), dim=1)[:, None].repeat_interleave(shared, dim=2)


CHECKS = {
    "step without rotation": unrotated,
    "step with rotation": rotated,
    **{f"step after a norm, {kind}": partial(norm, kind=kind) for kind in ("rms", "adaptive", "layer")},
    "step after GELU": activation_of_mlp,
    "turned queries and keys": turning,
    "attention": partial(attention, state=False),
    "attention with a state token": partial(attention, state=True),
}
