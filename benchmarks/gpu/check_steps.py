"""Activation steps, alone and with what stands before them, and attention: against the reference, on the card."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from gpu.checks import FLOATS, Integers, Place, WrongError, near, plain, rounded_alike, same
from vlapack.methods.rotate import hadamard
from vlapack.ops import reference
from vlapack.ops.triton.activation import Steps, quantize_activation
from vlapack.ops.triton.attention import attend_few
from vlapack.ops.triton.attention_step import attend_quantize
from vlapack.ops.triton.fused import Norm, gated_quantize, norm_quantize
from vlapack.pi0.attention import attend
from vlapack.pi0.gemma import RMSNorm

FEW = 1e-3
"""Of integers whose input comes from an exp or a norm's sum; a last bit of bf16 is half a step at most."""
ROTATED = 1e-4
"""Of integers after a rotation, which is float64 in the reference."""
HALF = 1e-3
"""From a half, in steps: as near as the reference is where a rotation's integer differs."""
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
    """A residual sum, a gate and a norm before the step."""
    batch, tokens, k = (2, 3, 80) if place.small else (1, 544, 2048) if kind == "rms" else (2, 10, 1024)
    if kind == "layer":
        k = 144 if place.small else 1152
    for number, steps in enumerate(_steps(place, k)):
        dtype = place.dtype(number + 1)  # the network's own first
        x, update = place.normal(batch * tokens, k, dtype=dtype) * 5, place.normal(batch * tokens, k, dtype=dtype)
        what = f"{batch * tokens}x{k} {dtype}, {_said(steps)}"
        if kind == "adaptive":
            before, after = place.normal(batch, 2, 3, k).unbind(1)
            stream, *found = norm_quantize(x, Norm.adaptive(after), steps, update, before[:, 2], tokens=tokens)
            summed = torch.addcmul(_by_sample(x, batch), _by_sample(update, batch), before[:, None, 2].to(dtype))
            bound = 2 * torch.finfo(dtype).eps * summed.abs().flatten(0, 1).double() + 1e-5
            near(stream, summed.flatten(0, 1), bound, f"{what}: the stream")
            factor, shift, gate = after[:, :, None].unbind(1)
            normed = RMSNorm(k, cond_dim=8)(_by_sample(stream, batch), (factor, shift, gate.to(dtype)))[0]
        else:
            weight, bias = (place.normal(k, dtype=dtype) * 0.3 for _ in range(2))
            ours = Norm.rms(weight) if kind == "rms" else Norm.layer(weight, bias)
            stream, *found = norm_quantize(x, ours, steps, update)
            same(stream, x + update, f"{what}: the stream")
            normed = _rms(stream, weight) if kind == "rms" else layer_norm(stream, (k,), weight, bias, 1e-6)
        rounded_alike((found[0], found[1]), plain(normed.reshape(-1, k), steps), dtype, FEW, what)


def activation_of_mlp(place: Place) -> None:
    """GELU, with and without up, before the step."""
    for m, k in ((5, 80),) if place.small else ((10, 4096), (544, 16384), (64, 4304)):
        for number, steps in enumerate(_steps(place, k)):
            dtype = place.dtype(number + 1)
            gate, up = place.normal(m, k, dtype=dtype) * 2, place.normal(m, k, dtype=dtype) * 2
            activated = gelu(gate, approximate="tanh")
            what = f"{m}x{k} {dtype}, {_said(steps)}"
            rounded_alike(gated_quantize(gate, steps, up), plain(activated * up, steps), dtype, FEW, what)
            rounded_alike(gated_quantize(gate, steps), plain(activated, steps), dtype, FEW, f"{what}, alone")


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
                integers = attend_quantize(query, key, value, steps, mask, **options)
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


def _by_sample(x: Tensor, batch: int) -> Tensor:
    return x.view(batch, -1, x.shape[-1])


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    module = RMSNorm(len(weight)).to(x.device, x.dtype)
    module.weight.data.copy_(weight)
    normed: Tensor = module(x[None])[0][0]
    return normed


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
    "attention": partial(attention, state=False),
    "attention with a state token": partial(attention, state=True),
}
