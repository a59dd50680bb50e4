"""The kernel of the activation step: one program takes one row, from what makes it to its integers.

Where the row comes from is a `SOURCE`:

- `plain`: it is x.
- `gelu`, `geglu`: GELU of x, times `second` in `geglu`. Both may instead be sums of the product that makes them
  (`sums`), those of `geglu` in turns.
- `rms`, `adaptive`, `layer`: the norm of the residual stream. That is x, or x plus `second`, times a gate where there
  is one; the kernel then also writes the new stream. `second` may be sums, too.

Sums of gate and up spill a few registers at 16384 channels, not at 8192: `product.gated_product` is for wide layers.

Each value is rounded where plain torch would store it. Then come the steps: divide by `smooth`, permute, Hadamard
blocks, integers (or floats where there is no `q_ptr`). Each channel is made once; a permutation goes through shared
memory.

The whole row is in registers, so its width is padded to a power of two, `SIZE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from vlapack.ops.triton.numeric import (
    INFINITY_BITS,
    div_rn,
    gelu_tanh,
    hadamard,
    magnitude_bits,
    narrowed,
    rint,
    rounded,
)
from vlapack.ops.triton.specimen import Specimen
from vlapack.ops.triton.sums import ended_at


@triton.jit
def _activated(
    x_ptr, second_ptr, second_part, step_ptr, end_scale_ptr, bias_ptr, channel, inside, channels,
    SOURCE: tl.constexpr, PARTS: tl.constexpr, DTYPE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """GELU at these channels, times the other factor if there is one."""
    if PARTS == 0:
        value = tl.load(x_ptr + channel, mask=inside, other=0.0).to(tl.float32)
        if SOURCE == "geglu":
            up = tl.load(second_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    elif SOURCE == "gelu":
        value = ended_at(second_ptr, second_part, step_ptr, end_scale_ptr, bias_ptr, channel, inside, PARTS, DTYPE)
    else:
        # Neighbors side by side: reading every other output would cost twice the accesses.
        both = tl.arange(0, 2 * SIZE)
        value = ended_at(
            second_ptr, second_part, step_ptr, end_scale_ptr, bias_ptr, both, both < 2 * channels, PARTS, DTYPE
        )
        value, up = tl.split(tl.reshape(value, (SIZE, 2)))
    value = rounded(gelu_tanh(value), DTYPE)
    if SOURCE == "geglu":
        value = rounded(value * up, DTYPE)
    return value


@triton.jit
def _normalized(
    x_ptr, second_ptr, second_part, step_ptr, end_scale_ptr, bias_ptr, gate_ptr, weight_ptr, shift_ptr, stream_ptr,
    channel, inside, channels, SOURCE: tl.constexpr, PARTS: tl.constexpr, DTYPE: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """The norm of the residual stream, which is stored if it is a new one."""
    x = tl.load(x_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    if second_ptr is not None:
        update = ended_at(second_ptr, second_part, step_ptr, end_scale_ptr, bias_ptr, channel, inside, PARTS, DTYPE)
        if gate_ptr is not None:
            gate = tl.load(gate_ptr + channel, mask=inside, other=0.0).to(tl.float32)
            update = update * rounded(gate, DTYPE)
        x = rounded(x + update, DTYPE)
        tl.store(stream_ptr + channel, x.to(DTYPE), mask=inside)  # rounded already
    width = channels.to(tl.float32)
    if SOURCE == "layer":
        mean = div_rn(tl.sum(x, 0), width)
        x = tl.where(inside, x - mean, 0.0)
    value = x * div_rn(1.0, tl.sqrt_rn(div_rn(tl.sum(x * x, 0), width) + EPS))
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    if SOURCE == "rms":
        value = value * (1.0 + weight)
    elif SOURCE == "adaptive":
        value = value * weight + tl.load(shift_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    else:
        value = value * rounded(weight, DTYPE)
        if shift_ptr is not None:
            value += rounded(tl.load(shift_ptr + channel, mask=inside, other=0.0).to(tl.float32), DTYPE)
    return rounded(value, DTYPE)


@triton.jit
def stepped(
    y, channel, inside, smooth_ptr, permutation_ptr,
    SIZE: tl.constexpr, LEVELS: tl.constexpr, NORMALIZER: tl.constexpr,
):  # fmt: skip
    """A row [SIZE] after the steps before its integers."""
    if smooth_ptr is not None:
        y = div_rn(y, tl.load(smooth_ptr + channel, mask=inside, other=1.0))
    if permutation_ptr is not None:
        y = tl.gather(y, tl.load(permutation_ptr + channel, mask=inside, other=0).to(tl.int32), 0)
    # Norms move what is beyond the row, and there is nothing that the peak may see.
    y = tl.where(inside, y, 0.0)
    if LEVELS > 0:
        y = hadamard(y, SIZE, LEVELS, NORMALIZER)
    return y


@triton.jit
def store_integers(y, channel, inside, start, scale_ptr, q_ptr, s_ptr, LARGEST: tl.constexpr):
    """Round a row by its own step or the static one, and store it from `start` on; the step goes to `s_ptr`."""
    peak_bits = tl.max(magnitude_bits(y), 0)
    if scale_ptr is None:
        step = div_rn(peak_bits.to(tl.float32, bitcast=True), LARGEST)
        step = tl.where(step == 0.0, 1.0, step)
    else:
        step = tl.load(scale_ptr)
    step = tl.where(peak_bits < INFINITY_BITS, step, float("nan"))
    units = div_rn(y, step)
    units = tl.where(units == units, units, 0.0)
    units = tl.minimum(tl.maximum(units, -LARGEST), LARGEST)
    tl.store(q_ptr + start + channel, rint(units).to(tl.int8), mask=inside)
    tl.store(s_ptr, step)


@triton.jit(do_not_specialize=["tokens"])
def rows_kernel(
    x_ptr, x_stride, second_ptr, second_stride, second_part, step_ptr, end_scale_ptr, bias_ptr, gate_ptr, gate_stride,
    weight_ptr, shift_ptr, weight_stride, stream_ptr, smooth_ptr, permutation_ptr, scale_ptr, q_ptr, s_ptr, y_ptr,
    channels, tokens, SOURCE: tl.constexpr, PARTS: tl.constexpr, DTYPE: tl.constexpr, SIZE: tl.constexpr,
    LEVELS: tl.constexpr, NORMALIZER: tl.constexpr, LARGEST: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """Rows [M, K], each in its program.

    Args:
        x_ptr: [M, K] of DTYPE, and its row stride; None where sums are all there is
        second_ptr: the product's other factor, or the update of the residual stream, or None; this and the next five
            are what `sums.ended_at` reads: the product, its strides of tokens and of shares
        step_ptr: [M] fp32
        end_scale_ptr: [N] fp32
        bias_ptr: [N] floating or None
        gate_ptr: [M / tokens or 1, K] floating, what multiplies the update, or None; a stride of 0 is for all
        weight_ptr: the norm's weight [K], or the factors [M / tokens or 1, K] if it is adaptive
        shift_ptr: the norm's bias [K] or None, or the shifts, of the same stride as the factors
        stream_ptr: [M, K] of DTYPE, where the sum goes
        smooth_ptr: [K] fp32 or None
        permutation_ptr: [K] integers or None
        scale_ptr: [1] fp32, the static step, or None
        q_ptr: [M, K] int8, or None: `y_ptr` then takes the row before it is rounded
        s_ptr: [M] fp32
        y_ptr: [M, K] floating
        channels: K
        tokens: rows that share a gate, factors and shifts
        PARTS: S of the sums; 0: the product is ended
        DTYPE: of every rounding
    """
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, SIZE)
    inside = channel < channels
    if x_ptr is not None:
        x_ptr += row * x_stride
    if second_ptr is not None:
        second_ptr += row * second_stride
    if step_ptr is not None:
        step_ptr += row
    if SOURCE == "plain":
        y = tl.load(x_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    elif SOURCE == "gelu" or SOURCE == "geglu":  # noqa: PLR1714 - Triton has no sets
        y = _activated(
            x_ptr, second_ptr, second_part, step_ptr, end_scale_ptr, bias_ptr, channel, inside, channels,
            SOURCE, PARTS, DTYPE, SIZE,
        )  # fmt: skip
    else:
        sample = row // tokens
        weight_ptr += sample * weight_stride
        if shift_ptr is not None:
            shift_ptr += sample * weight_stride
        if gate_ptr is not None:
            gate_ptr += sample * gate_stride
        if stream_ptr is not None:
            stream_ptr += row * channels
        y = _normalized(
            x_ptr, second_ptr, second_part, step_ptr, end_scale_ptr, bias_ptr, gate_ptr, weight_ptr, shift_ptr,
            stream_ptr, channel, inside, channels, SOURCE, PARTS, DTYPE, EPS,
        )  # fmt: skip
    y = stepped(y, channel, inside, smooth_ptr, permutation_ptr, SIZE, LEVELS, NORMALIZER)
    if q_ptr is None:
        tl.store(y_ptr + row * channels + channel, narrowed(y, y_ptr.dtype.element_ty), mask=inside)
    else:
        store_integers(y, channel, inside, row * channels, scale_ptr, q_ptr, s_ptr + row, LARGEST)


def warps(size: int) -> int:
    """Warps for a row of `size` padded channels: 8 values a thread, from 4 warps up to 16."""
    return min(16, max(4, size // 256))


_HADAMARD64 = {"LEVELS": 6, "NORMALIZER": 0.125}
_PERMUTED = {"permutation_ptr": "*u16"}
_SUMS = {"second_ptr": "*i32", "step_ptr": "*fp32", "end_scale_ptr": "*fp32"}
_MODULATED = {"gate_ptr": "*fp32", "weight_ptr": "*fp32", "shift_ptr": "*fp32", "stream_ptr": "*bf16"}
_FP16 = {"x_ptr": "*fp16", "stream_ptr": "*fp16", "DTYPE": tl.float16}
_FLOATING = {"q_ptr": None, "s_ptr": None}


def specimens() -> list[Specimen]:
    """The rows of π0.5 with presets' steps, each source once, and what other recipes do to a row."""
    update = {"second_ptr": "*bf16", "stream_ptr": "*bf16"}
    layer = {"stream_ptr": "*bf16", "weight_ptr": "*bf16", "shift_ptr": "*bf16", **_PERMUTED}
    fp32 = {"x_ptr": "*fp32", "DTYPE": tl.float32}
    return [
        _specimen("plain 1024", 1024, _HADAMARD64),
        _specimen("plain 2048", 2048, _PERMUTED, _HADAMARD64),
        _specimen("plain 16384", 16384, _PERMUTED, _HADAMARD64),
        _specimen("plain 2048, smooth and static", 2048, {"smooth_ptr": "*fp32", "scale_ptr": "*fp32", **_PERMUTED}),
        _specimen("plain 2048 after blocks", 2048, fp32),
        _specimen("plain 2048 to fp32", 2048, _FLOATING, {"y_ptr": "*fp32", **_PERMUTED}, _HADAMARD64),
        _specimen("rms 2048", 2048, update, {"SOURCE": "rms", "weight_ptr": "*bf16", **_PERMUTED}, _HADAMARD64),
        _specimen("adaptive 1024", 1024, {"SOURCE": "adaptive", **_MODULATED, **update, **_PERMUTED}, _HADAMARD64),
        _specimen("layer 1152", 2048, {"SOURCE": "layer", **update, **layer}, _HADAMARD64),
        _specimen("geglu 4096", 4096, {"SOURCE": "geglu", "second_ptr": "*bf16", **_PERMUTED}, _HADAMARD64),
        _specimen("geglu 16384", 16384, {"SOURCE": "geglu", "second_ptr": "*bf16", **_PERMUTED}, _HADAMARD64),
        _specimen("gelu 4304", 8192, {"SOURCE": "gelu", **_PERMUTED, "LEVELS": 4, "NORMALIZER": 0.25}),
        *_of_sums(),
        *_floating(),
    ]


def _of_sums() -> list[Specimen]:
    """Sums of the expert's products at the splits of cards large and small, and those of many tokens."""
    adaptive = {"SOURCE": "adaptive", **_MODULATED, **_SUMS, **_PERMUTED}
    geglu, gelu = ({"SOURCE": kind, "x_ptr": None, **_SUMS} for kind in ("geglu", "gelu"))
    rms = {"SOURCE": "rms", "weight_ptr": "*bf16", "stream_ptr": "*bf16", **_SUMS, **_PERMUTED}
    layer = {"SOURCE": "layer", "stream_ptr": "*bf16", "weight_ptr": "*bf16", "shift_ptr": "*bf16", **_SUMS}
    bias = {"bias_ptr": "*bf16"}
    return [
        _specimen("adaptive 1024 of 16 sums", 1024, adaptive, _HADAMARD64, {"PARTS": 16}),
        _specimen("adaptive 1024 of 8 sums", 1024, adaptive, _HADAMARD64, {"PARTS": 8}),
        _specimen("adaptive 1024 of 2 sums, bias, fp16", 1024, adaptive, _HADAMARD64, bias, {"PARTS": 2}, _FP16),
        _specimen("geglu 4096 of 4 sums", 4096, geglu, _HADAMARD64, {"PARTS": 4}),
        _specimen("geglu 4096 of 2 sums", 4096, geglu, _HADAMARD64, _PERMUTED, {"PARTS": 2}),
        _specimen("geglu 8192 of 4 sums", 8192, geglu, _HADAMARD64, _PERMUTED, {"PARTS": 4}),
        _specimen("gelu 4304 of 1 sum", 8192, gelu, bias, {"PARTS": 1, "LEVELS": 4, "NORMALIZER": 0.25}),
        _specimen("rms 2048 of 1 sum", 2048, rms, _HADAMARD64, {"PARTS": 1}),
        _specimen("layer 1152 of 1 sum", 2048, layer, bias, _HADAMARD64, {"PARTS": 1}),
    ]


def _floating() -> list[Specimen]:
    """Rows that stay floating: of a float policy, which has no steps, and of 16-bit activations."""
    adaptive = {"SOURCE": "adaptive", **_MODULATED, "second_ptr": "*bf16", **_FLOATING}
    geglu = {"SOURCE": "geglu", "second_ptr": "*bf16", **_FLOATING}
    return [
        _specimen("adaptive 1024 to bf16", 1024, adaptive, {"y_ptr": "*bf16"}),
        _specimen("geglu 4096 to bf16", 4096, geglu, {"y_ptr": "*bf16"}),
        _specimen("geglu 16384 to bf16", 16384, geglu, {"y_ptr": "*bf16"}),
        _specimen("adaptive 1024 to fp32", 1024, adaptive, _PERMUTED, _HADAMARD64, {"y_ptr": "*fp32"}),
    ]


def _specimen(name: str, size: int, *choices: Mapping[str, Any]) -> Specimen:
    """`choices` are pointers' types, where they differ from what most have, and constants."""
    numbers = ("x_stride", "second_stride", "second_part", "gate_stride", "weight_stride", "channels", "tokens")
    products = ("second", "step", "end_scale", "bias")
    optional = (*products, "gate", "weight", "shift", "stream", "smooth", "permutation", "scale", "y")
    arguments: dict[str, Any] = {
        **{"x_ptr": "*bf16", "q_ptr": "*i8", "s_ptr": "*fp32"},
        **{f"{argument}_ptr": None for argument in optional},
        **{"SOURCE": "plain", "PARTS": 0, "DTYPE": tl.bfloat16, "SIZE": size},
        **{"LEVELS": 0, "NORMALIZER": 1.0, "LARGEST": 127.0, "EPS": 1e-6},
    }
    for choice in choices:
        arguments |= choice
    types = [name for name, kind in arguments.items() if name.endswith("_ptr") and kind is not None]
    return Specimen(
        kernel=rows_kernel,
        name=f"activation {name}",
        signature={**{name: arguments[name] for name in types}, **dict.fromkeys(numbers, "i32")},
        constexprs={name: value for name, value in arguments.items() if name not in types},
        num_warps=warps(size),
        divides_exactly=arguments["q_ptr"] is not None,
    )
