"""Rotary embedding between a merged q, k, v product and attention: queries come out, keys and values are kept.

One program takes one head of one token. It may read the product as sums (`sums`), and rounds where plain torch would
store a result, so its numbers are the reference's bit for bit. Where q, k and v differ in bits they are two products,
of the first heads and of the rest.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops.triton.numeric import rounded
from vlapack.ops.triton.specimen import Specimen
from vlapack.ops.triton.sums import NOTHING, STORED, Ending, ended_at, ending
from vlapack.ops.triton.tensors import FLOATS, described


@triton.jit
def turned_at(
    product_ptr, product_part, step_ptr, end_scale_ptr, bias_ptr, cos_ptr, cos_at, sin_ptr, sin_at,
    head, turns, channel, inside, PARTS: tl.constexpr, DTYPE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One head of one token in a product, as fp32 numbers of DTYPE.

    Args:
        product_ptr: [its heads * WIDTH], of this token; this and the next four are what `sums.ended_at` reads
        cos_ptr: of DTYPE
        cos_at: where this token's WIDTH cosines begin; added by the load, else sm_90's compiler spills
        sin_ptr: the same of the sines
        sin_at: the same
        head: which head of this product
        turns: whether it is turned
        channel: which channels
        inside: which of them exist
    """
    y = ended_at(
        product_ptr, product_part, step_ptr, end_scale_ptr, bias_ptr, head * WIDTH + channel, inside, PARTS, DTYPE
    )
    if turns:
        other = tl.where(channel < WIDTH // 2, channel + WIDTH // 2, channel - WIDTH // 2)
        partner = ended_at(
            product_ptr, product_part, step_ptr, end_scale_ptr, bias_ptr, head * WIDTH + other, inside, PARTS, DTYPE
        )
        cos = tl.load(cos_ptr + cos_at + channel, mask=inside, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + sin_at + channel, mask=inside, other=0.0).to(tl.float32)
        y = rounded(rounded(y * cos, DTYPE) + rounded(partner * sin, DTYPE), DTYPE)
    return y


@triton.jit(do_not_specialize=["tokens", "first", "own"])
def turn_kernel(
    product_ptr, product_stride, product_part, step_ptr, end_scale_ptr, bias_ptr,
    rest_ptr, rest_stride, rest_part, rest_step_ptr, rest_scale_ptr, rest_bias_ptr,
    cos_ptr, cos_batch, cos_token, sin_ptr, sin_batch, sin_token,
    query_ptr, key_ptr, key_batch, key_group, key_token, value_ptr, value_batch, value_group, value_token,
    tokens, first, heads, groups, own, PARTS: tl.constexpr, REST_PARTS: tl.constexpr, DTYPE: tl.constexpr,
    WIDTH: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One head of one token: turned, unless it is a value, and stored where it belongs.

    Args:
        product_ptr: [B * T, (heads + 2 groups) * WIDTH], or the first `own` heads of these; this and the next five are
            what `sums.ended_at` reads
        rest_ptr: the other heads, or None; this and the next five are the same of another product
        cos_ptr: [B or 1, T, 1, WIDTH] of DTYPE, and its strides; a stride of 0 is for the one that all samples share
        sin_ptr: the same
        query_ptr: [B, T, heads, WIDTH]
        key_ptr: [B, groups, S, WIDTH], and its strides
        value_ptr: the same
        tokens: T
        first: the token of the cache where these begin
        heads: of the queries
        groups: of the keys, and of the values
        own: heads of the first product; not read without a rest
        REST_PARTS: as PARTS, of the rest
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    batch = row // tokens
    token = row % tokens
    channel = tl.arange(0, SIZE)
    inside = channel < WIDTH
    turns = head < heads + groups
    cos_at = batch * cos_batch + token * cos_token
    sin_at = batch * sin_batch + token * sin_token
    product_ptr += row * product_stride
    if step_ptr is not None:
        step_ptr += row
    if rest_ptr is not None:
        rest_ptr += row * rest_stride
    if rest_step_ptr is not None:
        rest_step_ptr += row
    if rest_ptr is None:  # noqa: SIM114 - known when the kernel is compiled, unlike the next
        y = turned_at(
            product_ptr, product_part, step_ptr, end_scale_ptr, bias_ptr, cos_ptr, cos_at, sin_ptr, sin_at,
            head, turns, channel, inside, PARTS, DTYPE, WIDTH,
        )  # fmt: skip
    elif head < own:
        y = turned_at(
            product_ptr, product_part, step_ptr, end_scale_ptr, bias_ptr, cos_ptr, cos_at, sin_ptr, sin_at,
            head, turns, channel, inside, PARTS, DTYPE, WIDTH,
        )  # fmt: skip
    else:
        y = turned_at(
            rest_ptr, rest_part, rest_step_ptr, rest_scale_ptr, rest_bias_ptr, cos_ptr, cos_at, sin_ptr, sin_at,
            head - own, turns, channel, inside, REST_PARTS, DTYPE, WIDTH,
        )  # fmt: skip
    if head < heads:
        place = query_ptr + (row * heads + head) * WIDTH
    elif head < heads + groups:
        place = key_ptr + batch * key_batch + (head - heads) * key_group + (first + token) * key_token
    else:
        place = value_ptr + batch * value_batch + (head - heads - groups) * value_group + (first + token) * value_token
    tl.store(place + channel, y.to(DTYPE), mask=inside)  # rounded already


def turn_and_keep(
    product: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    first: int,
    s: Tensor | None = None,
    weight_scale: Tensor | None = None,
    bias: Tensor | None = None,
    rest: Tensor | None = None,
    rest_s: Tensor | None = None,
    rest_weight_scale: Tensor | None = None,
    rest_bias: Tensor | None = None,
    *,
    heads: int,
) -> Tensor:
    """See `attention_reference.turn_and_keep`."""
    batch, groups, room, width = _cache(keys, values)
    cos, sin = (_table(name, table, batch, keys) for name, table in (("cos", cos), ("sin", sin)))
    tokens = cos.shape[1]
    if sin.shape[1] != tokens or heads < 0 or not 0 <= first <= room - tokens:
        raise InputError(
            f"{tokens} cosines, {sin.shape[1]} sines, heads={heads}, and first={first} of {room} tokens: heads are 0 "
            "or more, and the tokens must fit"
        )
    rows, total = batch * tokens, heads + 2 * groups
    own = total if rest is None else _own(product, total, width)
    given = ending("product", product, s, weight_scale, bias, (rows, own * width), keys.dtype, keys.device)
    other: Ending | None = None
    if rest is not None:
        shape = (rows, (total - own) * width)
        other = ending("rest", rest, rest_s, rest_weight_scale, rest_bias, shape, keys.dtype, keys.device)
    query = torch.empty(batch, tokens, heads, width, dtype=keys.dtype, device=keys.device)
    if not rows * total * width:
        return query
    size = max(16, int(triton.next_power_of_2(width)))
    turn_kernel[(rows, total)](
        *given.arguments,
        *(NOTHING if other is None else other.arguments),
        cos,
        *_strides(cos),
        sin,
        *_strides(sin),
        query,
        keys,
        *keys.stride()[:3],
        values,
        *values.stride()[:3],
        tokens,
        first,
        heads,
        groups,
        0 if other is None else own,
        PARTS=given.parts,
        REST_PARTS=0 if other is None else other.parts,
        DTYPE=STORED[keys.dtype],
        WIDTH=width,
        SIZE=size,
        num_warps=1 if size <= 64 else 2,
        enable_fp_fusion=False,
    )
    return query


def _cache(keys: Tensor, values: Tensor) -> torch.Size:
    """Check what is written to; return the sizes B, G, S, D."""
    for name, tensor in (("keys", keys), ("values", values)):
        if tensor.dim() != 4 or tensor.dtype not in FLOATS or tensor.stride(3) != 1 or tensor.shape[3] % 2:
            raise InputError(
                f"{name} must be floating [B, G, S, D], D even and its channels side by side, not {described(tensor)} "
                f"with strides {list(tensor.stride())}"
            )
    if values.shape != keys.shape or values.dtype != keys.dtype or values.device != keys.device:
        raise InputError(f"values must be like keys, {described(keys)}, not {described(values)}")
    return keys.shape


def _own(product: Tensor, total: int, width: int) -> int:
    """Return the heads of a product that is not the only one."""
    own = product.shape[-1] // width
    if not 0 < own < total:
        raise InputError(f"product has {own} of {total} heads and there is a `rest`: each must have one or more")
    return own


def _table(name: str, table: Tensor, batch: int, keys: Tensor) -> Tensor:
    """Check cosines or sines [B or 1, T, 1, D]."""
    width = keys.shape[3]
    fits = table.dim() == 4 and len(table) in (1, batch) and table.shape[2:] == (1, width)
    if not fits or table.dtype != keys.dtype or table.device != keys.device:
        wanted = f"{keys.dtype} [1 or {batch}, T, 1, {width}] on {keys.device}"
        raise InputError(f"{name} must be {wanted}, not {described(table)}")
    return table if table.stride(3) == 1 else table.contiguous()


def _strides(table: Tensor) -> tuple[int, int]:
    """From sample to sample, 0 where one serves all, and from token to token."""
    return 0 if len(table) == 1 else table.stride(0), table.stride(1)


def specimens() -> list[Specimen]:
    """π0.5's expert, whose product is split or not, and its language model's prefill, also with two products."""
    return [
        _specimen("4 sums, bias", parts=4, bias="*bf16"),
        _specimen("2 sums", parts=2),
        _specimen("2 sums, 4 of the rest", parts=2, rest=4),
        _specimen("bf16", parts=0),
        _specimen("bf16 and the rest", parts=0, rest=0),
    ]


def _specimen(name: str, *, parts: int, bias: str | None = None, rest: int | None = None) -> Specimen:
    kinds = _kinds(("product", "step", "end_scale", "bias"), parts, bias)
    kinds |= _kinds(("rest", "rest_step", "rest_scale", "rest_bias"), rest)
    tables = [f"{name}_{axis}" for name in ("cos", "sin") for axis in ("batch", "token")]
    caches = [f"{name}_{axis}" for name in ("key", "value") for axis in ("batch", "group", "token")]
    strides = [f"{name}_{axis}" for name in ("product", "rest") for axis in ("stride", "part")]
    numbers = (*strides, *tables, *caches, "tokens", "first", "heads", "groups", "own")
    constants: dict[str, Any] = {"PARTS": parts, "REST_PARTS": rest or 0, "DTYPE": tl.bfloat16}
    return Specimen(
        kernel=turn_kernel,
        name=f"turn and keep {name}",
        signature={
            **{name: kind for name, kind in kinds.items() if kind is not None},
            **{f"{name}_ptr": "*bf16" for name in ("cos", "sin", "query", "key", "value")},
            **dict.fromkeys(numbers, "i32"),
        },
        constexprs={
            **{name: None for name, kind in kinds.items() if kind is None},
            **constants,
            "WIDTH": 256,
            "SIZE": 256,
        },
        num_warps=2,
    )


def _kinds(names: tuple[str, str, str, str], parts: int | None, bias: str | None = None) -> dict[str, str | None]:
    """Types of a product, its steps, scales and bias, of which only sums have the last three; `parts` None: nothing."""
    types = ("*i32", "*fp32", "*fp32", bias) if parts else (None if parts is None else "*bf16", None, None, None)
    return dict(zip((f"{name}_ptr" for name in names), types, strict=True))
