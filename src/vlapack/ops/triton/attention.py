"""Attention of a few queries to many keys: a denoise step's tokens to the prefix and to themselves.

Ten tokens of eight heads are 80 rows on one key-value head, too little for a kernel that splits its work by queries:
one or two multiprocessors would read all the keys. Here programs also share the keys (as FlashDecoding does): each
makes its part of the softmax in fp32, with its own maximum and sum, and a second kernel puts the parts together.

Cards that are not in `CARDS` take torch's own attention instead: their code would keep its sums in memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlapack.errors import InputError
from vlapack.machine import gpu
from vlapack.ops import attention_reference as reference
from vlapack.ops.triton.numeric import div_rn, dot, narrowed
from vlapack.ops.triton.specimen import Specimen
from vlapack.ops.triton.tensors import FLOATS, described

ROWS = 16
"""Queries of one program: the least that a tensor core takes."""
KEYS = 64
"""Keys of one program at a time; half of them where they are fp32."""
PARTS = 16
"""Most parts into which the keys are divided: the second kernel has one row's parts in registers."""
CARDS = ("sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_110", "sm_120", "gfx942", "gfx950")
"""Where the code has no spills. On gfx1151 it has five hundred, whatever the sizes."""
LOG2_E = 1.4426950408889634


@triton.jit(do_not_specialize=["rows", "tokens", "prefix", "per_part"])
def parts_kernel(
    query_ptr, query_batch, query_group, query_row, key_ptr, key_batch, key_group, key_row,
    value_ptr, value_batch, value_group, value_row, mask_ptr, mask_batch, mask_token, mixed_ptr, largest_ptr, sum_ptr,
    groups, rows, tokens, prefix, per_part, scale,
    SHARED: tl.constexpr, STATE: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One part of the keys for some queries of one group: Σ exp(score - largest) v, the largest score and the sum.

    Args:
        query_ptr: [B, G, R, D] floating, and its strides
        key_ptr: [B, G, S, D] of the same dtype
        value_ptr: the same
        mask_ptr: [B, P] bytes, whether a key of the prefix is seen, and its strides, or None: all are
        mixed_ptr: [B * G, parts, R, D] fp32
        largest_ptr: [B * G, parts, R] fp32, as logarithms to base 2
        sum_ptr: the same
        groups: G
        rows: R; `SHARED` neighbours are the heads of one token
        tokens: S
        prefix: P
        per_part: keys of a part, a multiple of KEYS
        scale: of the scores, times log2(e)
    """
    part = tl.program_id(1)
    pair = tl.program_id(2)
    batch = (pair // groups).to(tl.int64)
    group = (pair % groups).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, SIZE)
    exists = row < rows
    inside = channel < WIDTH
    query_ptr += batch * query_batch + group * query_group
    key_ptr += batch * key_batch + group * key_group
    value_ptr += batch * value_batch + group * value_group
    places = row[:, None] * query_row + channel[None, :]
    query = tl.load(query_ptr + places, mask=exists[:, None] & inside[None, :], other=0.0)

    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    mixed = tl.zeros((ROWS, SIZE), tl.float32)
    for first in range(part * per_part, (part + 1) * per_part, KEYS):
        token = first + tl.arange(0, KEYS)
        there = token < tokens
        wanted = there[:, None] & inside[None, :]
        key = tl.load(key_ptr + token[:, None] * key_row + channel[None, :], mask=wanted, other=0.0)
        value = tl.load(value_ptr + token[:, None] * value_row + channel[None, :], mask=wanted, other=0.0)
        seen = there
        if mask_ptr is not None:
            of_prefix = tl.load(mask_ptr + batch * mask_batch + token * mask_token, mask=token < prefix, other=1)
            seen = seen & (of_prefix != 0)
        visible = seen[None, :]
        if STATE:
            # The state token comes first after the prefix, and sees no action.
            visible = visible & ((row >= SHARED)[:, None] | (token <= prefix)[None, :])
        scores = dot(query, tl.trans(key), tl.zeros((ROWS, KEYS), tl.float32)) * scale
        scores = tl.where(visible, scores, float("-inf"))
        highest = tl.maximum(largest, tl.max(scores, 1))
        # A row that has seen no key yet has no maximum to take off.
        base = tl.where(highest == float("-inf"), 0.0, highest)
        weights = tl.exp2(scores - base[:, None])
        kept = tl.exp2(largest - base)
        total = total * kept + tl.sum(weights, 1)
        mixed = mixed * kept[:, None]
        mixed = dot(narrowed(weights, value_ptr.dtype.element_ty), value, mixed)
        largest = highest

    row_of = (pair.to(tl.int64) * tl.num_programs(1) + part) * rows + row
    tl.store(largest_ptr + row_of, largest, mask=exists)
    tl.store(sum_ptr + row_of, total, mask=exists)
    tl.store(mixed_ptr + row_of[:, None] * WIDTH + channel[None, :], mixed, mask=exists[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["rows", "parts"])
def combine_kernel(
    mixed_ptr, largest_ptr, sum_ptr, out_ptr, rows, parts,
    WIDTH: tl.constexpr, SIZE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Put the parts of one row together: out [B * G, R, D]. Arguments as in `parts_kernel`."""
    row = tl.program_id(0)
    pair = tl.program_id(1).to(tl.int64)
    part = tl.arange(0, PARTS)
    channel = tl.arange(0, SIZE)
    exists = part < parts
    inside = channel < WIDTH
    row_of = (pair * parts + part) * rows + row
    largest = tl.load(largest_ptr + row_of, mask=exists, other=float("-inf"))
    highest = tl.max(largest, 0)
    kept = tl.exp2(largest - tl.where(highest == float("-inf"), 0.0, highest))
    total = tl.sum(kept * tl.load(sum_ptr + row_of, mask=exists, other=0.0), 0)
    places = row_of[:, None] * WIDTH + channel[None, :]
    mixed = tl.load(mixed_ptr + places, mask=exists[:, None] & inside[None, :], other=0.0)
    out = div_rn(tl.sum(mixed * kept[:, None], 0), tl.where(total == 0.0, 1.0, total))
    tl.store(out_ptr + (pair * rows + row) * WIDTH + channel, narrowed(out, out_ptr.dtype.element_ty), mask=inside)


def attend_few(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_mask: Tensor | None = None,
    *,
    shared: int,
    prefix: int,
    state_token: bool,
) -> Tensor:
    """See `attention_reference.attend_few`. Where the kernel runs, a query that sees no key gets zeros.

    Raises:
        InputError: shapes, dtypes or devices that do not fit together
    """
    options: dict[str, Any] = {"shared": shared, "prefix": prefix, "state_token": state_token}
    if not has_kernel(query.device):
        return reference.attend_few(query, key, value, prefix_mask, **options)
    parts = attend_in_parts(query, key, value, prefix_mask, **options)
    out = torch.empty(query.shape, dtype=value.dtype, device=value.device)
    if out.numel():
        pairs, count, rows, width = parts.mixed.shape
        sizes = {"WIDTH": width, "SIZE": padded(width), "PARTS": PARTS}
        combine_kernel[(rows, pairs)](*parts, out, rows, count, **sizes, num_warps=4, enable_fp_fusion=True)
    return out


def has_kernel(device: torch.device) -> bool:
    """Whether attention is a kernel of ours on this card, and under the interpreter; elsewhere it is torch's."""
    return device.type == "cpu" or gpu.card(device).architecture in CARDS


class Parts(NamedTuple):
    """What `parts_kernel` writes: [B * G, parts, R, D], and twice [B * G, parts, R], fp32."""

    mixed: Tensor
    largest: Tensor
    total: Tensor


def attend_in_parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_mask: Tensor | None,
    *,
    shared: int,
    prefix: int,
    state_token: bool,
) -> Parts:
    """Return the parts of an attention, which is not yet put together; arguments as in `attend_few`."""
    batch, groups, rows, width = _sizes(query, key, value)
    tokens = key.shape[2]
    _check_prefix(prefix_mask, prefix, batch, tokens, state_token, query.device)
    query, key, value = (tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (query, key, value))
    mask = None if prefix_mask is None else prefix_mask.view(torch.uint8)
    at_once = KEYS if value.itemsize < 4 else KEYS // 2
    per_part = at_once * triton.cdiv(tokens, at_once * PARTS)
    pairs, count = batch * groups, triton.cdiv(tokens, per_part)
    mixed = torch.empty(pairs, count, rows, width, dtype=torch.float32, device=value.device)
    largest, total = torch.empty(2, pairs, count, rows, dtype=torch.float32, device=value.device)
    if mixed.numel():
        parts_kernel[(triton.cdiv(rows, ROWS), count, pairs)](
            query,
            *query.stride()[:3],
            key,
            *key.stride()[:3],
            value,
            *value.stride()[:3],
            mask,
            *((0, 0) if mask is None else mask.stride()),
            mixed,
            largest,
            total,
            groups,
            rows,
            tokens,
            prefix,
            per_part,
            width**-0.5 * LOG2_E,
            SHARED=shared,
            STATE=state_token,
            WIDTH=width,
            SIZE=padded(width),
            ROWS=ROWS,
            KEYS=at_once,
            num_warps=4,
            num_stages=1,
            enable_fp_fusion=True,
        )
    return Parts(mixed, largest, total)


def padded(width: int) -> int:
    """Channels of a head as the kernels hold them."""
    return max(16, int(triton.next_power_of_2(width)))


def _sizes(query: Tensor, key: Tensor, value: Tensor) -> torch.Size:
    """Check that the three fit together; return the sizes of `query`."""
    found = ", ".join(described(one) for one in (query, key, value))
    if query.dim() != 4 or key.dim() != 4 or key.shape != value.shape:
        raise InputError(f"attention takes a query [B, G, R, D] and keys and values [B, G, S, D], not {found}")
    if query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3] or not key.shape[2]:
        raise InputError(f"attention's B, G and D must agree and S be at least 1: {found}")
    if query.dtype not in FLOATS or key.dtype != query.dtype:
        raise InputError(f"attention takes one dtype of float32, bfloat16 and float16, not {found}")
    if value.dtype != query.dtype or key.device != query.device or value.device != query.device:
        raise InputError(f"attention's tensors must have one dtype and one device, not {found}")
    return query.shape


def _check_prefix(
    mask: Tensor | None, prefix: int, batch: int, tokens: int, state_token: bool, device: torch.device
) -> None:
    if not 0 <= prefix <= tokens - state_token:
        rule = "from 0 to one less, for the state token" if state_token else "from 0 to as many"
        raise InputError(f"prefix={prefix} of {tokens} keys: it must be {rule}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (batch, prefix) or mask.device != device):
        raise InputError(f"prefix_mask must be bool [{batch}, {prefix}] on {device}, not {described(mask)}")


def specimens() -> list[Specimen]:
    """π0.5's and π0's denoise step: 256 channels, eight heads on one key-value head."""
    return [_parts("bf16", state=False), _parts("bf16", state=True), _parts("fp16", state=True), _combine("bf16")]


def _parts(dtype: str, *, state: bool) -> Specimen:
    strides = [f"{name}_{axis}" for name in ("query", "key", "value") for axis in ("batch", "group", "row")]
    numbers = (*strides, "mask_batch", "groups", "rows", "tokens", "prefix", "per_part")
    return Specimen(
        kernel=parts_kernel,
        name=f"attention {dtype}{', state token' if state else ''}",
        signature={
            **{f"{name}_ptr": f"*{dtype}" for name in ("query", "key", "value")},
            **{f"{name}_ptr": "*fp32" for name in ("mixed", "largest", "sum")},
            "mask_ptr": "*u8",
            **dict.fromkeys(numbers, "i32"),
            "scale": "fp32",
        },
        constexprs={
            "SHARED": 8,
            "STATE": state,
            "WIDTH": 256,
            "SIZE": 256,
            "ROWS": ROWS,
            "KEYS": KEYS,
            "mask_token": 1,
        },
        num_stages=1,
        expects="mma",
        targets=CARDS,
    )


def _combine(dtype: str) -> Specimen:
    return Specimen(
        kernel=combine_kernel,
        name=f"attention, parts to {dtype}",
        signature={
            **{f"{name}_ptr": "*fp32" for name in ("mixed", "largest", "sum")},
            "out_ptr": f"*{dtype}",
            **{"rows": "i32", "parts": "i32"},
        },
        constexprs={"WIDTH": 256, "SIZE": 256, "PARTS": PARTS},
        divides_exactly=True,
    )
