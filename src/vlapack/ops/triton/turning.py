"""Rotary embedding between a merged q, k, v product and attention: queries come out, keys and values are kept.

One program takes one head of one token. It may read the product as sums (`sums`), and rounds where plain torch would
store a result, so its numbers are the reference's bit for bit.
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
from vlapack.ops.triton.sums import STORED, ended_at, ending
from vlapack.ops.triton.tensors import FLOATS, described


@triton.jit(do_not_specialize=["tokens", "first"])
def turn_kernel(
    product_ptr, product_stride, product_part, step_ptr, end_scale_ptr, bias_ptr,
    cos_ptr, cos_batch, cos_token, sin_ptr, sin_batch, sin_token,
    query_ptr, key_ptr, key_batch, key_group, key_token, value_ptr, value_batch, value_group, value_token,
    tokens, first, heads, groups, PARTS: tl.constexpr, DTYPE: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """One head of one token: turned, unless it is a value, and stored where it belongs.

    Args:
        product_ptr: [B * T, (heads + 2 groups) * WIDTH]; this and the next five are what `sums.ended_at` reads
        cos_ptr: [B or 1, T, 1, WIDTH] of DTYPE, and its strides; a stride of 0 is for the one that all samples share
        sin_ptr: the same
        query_ptr: [B, T, heads, WIDTH]
        key_ptr: [B, groups, S, WIDTH], and its strides
        value_ptr: the same
        tokens: T
        first: the token of the cache where these begin
        heads: of the queries
        groups: of the keys, and of the values
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    batch = row // tokens
    token = row % tokens
    channel = tl.arange(0, SIZE)
    inside = channel < WIDTH
    product_ptr += row * product_stride
    if step_ptr is not None:
        step_ptr += row
    y = ended_at(
        product_ptr, product_part, step_ptr, end_scale_ptr, bias_ptr, head * WIDTH + channel, inside, PARTS, DTYPE
    )
    if head < heads + groups:
        other = tl.where(channel < WIDTH // 2, channel + WIDTH // 2, channel - WIDTH // 2)
        partner = ended_at(
            product_ptr, product_part, step_ptr, end_scale_ptr, bias_ptr, head * WIDTH + other, inside, PARTS, DTYPE
        )
        cos = tl.load(cos_ptr + batch * cos_batch + token * cos_token + channel, mask=inside, other=0.0)
        sin = tl.load(sin_ptr + batch * sin_batch + token * sin_token + channel, mask=inside, other=0.0)
        y = rounded(y * cos.to(tl.float32), DTYPE) + rounded(partner * sin.to(tl.float32), DTYPE)
        y = rounded(y, DTYPE)
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
    *,
    heads: int,
) -> Tensor:
    """See `fused_reference.turn_and_keep`."""
    batch, groups, room, width = _cache(keys, values)
    cos, sin = (_table(name, table, batch, keys) for name, table in (("cos", cos), ("sin", sin)))
    tokens = cos.shape[1]
    if sin.shape[1] != tokens or heads < 0 or not 0 <= first <= room - tokens:
        raise InputError(
            f"{tokens} cosines, {sin.shape[1]} sines, heads={heads}, and first={first} of {room} tokens: heads are 0 "
            "or more, and the tokens must fit"
        )
    shape = (batch * tokens, (heads + 2 * groups) * width)
    given = ending("product", product, s, weight_scale, bias, shape, keys.dtype, keys.device)
    query = torch.empty(batch, tokens, heads, width, dtype=keys.dtype, device=keys.device)
    if not shape[0] * shape[1]:
        return query
    size = max(16, int(triton.next_power_of_2(width)))
    turn_kernel[(shape[0], heads + 2 * groups)](
        *given.arguments,
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
        PARTS=given.parts,
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
    """π0.5's expert, whose product is split or not, and its language model's prefill."""
    return [
        _specimen("4 sums, bias", parts=4, bias="*bf16"),
        _specimen("2 sums", parts=2),
        _specimen("bf16", parts=0),
    ]


def _specimen(name: str, *, parts: int, bias: str | None = None) -> Specimen:
    ending: dict[str, str | None] = {"step_ptr": "*fp32", "end_scale_ptr": "*fp32", "bias_ptr": bias}
    kinds = {"product_ptr": "*i32" if parts else "*bf16", **(ending if parts else dict.fromkeys(ending))}
    tables = [f"{name}_{axis}" for name in ("cos", "sin") for axis in ("batch", "token")]
    caches = [f"{name}_{axis}" for name in ("key", "value") for axis in ("batch", "group", "token")]
    numbers = ("product_stride", "product_part", *tables, *caches, "tokens", "first", "heads", "groups")
    constants: dict[str, Any] = {"PARTS": parts, "DTYPE": tl.bfloat16, "WIDTH": 256, "SIZE": 256}
    return Specimen(
        kernel=turn_kernel,
        name=f"turn and keep {name}",
        signature={
            **{name: kind for name, kind in kinds.items() if kind is not None},
            **{f"{name}_ptr": "*bf16" for name in ("cos", "sin", "query", "key", "value")},
            **dict.fromkeys(numbers, "i32"),
        },
        constexprs={**{name: None for name, kind in kinds.items() if kind is None}, **constants},
        num_warps=2,
    )
