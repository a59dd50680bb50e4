"""Attention over few queries and the activation step of its output product, in two launches.

The kernel that puts an attention's parts together reads what the output product's step would read again: here one
program takes a token's whole row, all heads, and ends with the row's integers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.round import largest_activation
from vlapack.ops.triton import attention, rows
from vlapack.ops.triton.activation import quantized
from vlapack.ops.triton.numeric import div_rn, rounded
from vlapack.ops.triton.rows import stepped, store_integers
from vlapack.ops.triton.source import plain
from vlapack.ops.triton.specimen import Specimen
from vlapack.ops.triton.steps import Steps
from vlapack.ops.triton.sums import STORED
from vlapack.ops.triton.tensors import check_width


@triton.jit(do_not_specialize=["tokens", "parts"])
def combine_row_kernel(
    mixed_ptr, largest_ptr, sum_ptr, smooth_ptr, permutation_ptr, scale_ptr, q_ptr, s_ptr, groups, tokens, parts,
    channels, WIDTH: tl.constexpr, SHARED: tl.constexpr, SIZE: tl.constexpr, LEVELS: tl.constexpr,
    NORMALIZER: tl.constexpr, LARGEST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """One token's row: channel c is channel c % D of head c // D; `SHARED` heads make a group.

    The parts are `attention.parts_kernel`'s [B * G, parts, tokens * SHARED, D]; `DTYPE` is what attention would store.
    The other arguments are those of `rows.rows_kernel`.
    """
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, SIZE)
    inside = channel < channels
    head = channel // WIDTH
    pair = (row // tokens) * groups + head // SHARED
    rows_of_part = tokens * SHARED
    first = pair * parts * rows_of_part + (row % tokens) * SHARED + head % SHARED
    highest = tl.full((SIZE,), float("-inf"), tl.float32)
    for part in range(parts):
        highest = tl.maximum(highest, tl.load(largest_ptr + first + part * rows_of_part, mask=inside, other=0.0))
    base = tl.where(highest == float("-inf"), 0.0, highest)
    total = tl.zeros((SIZE,), tl.float32)
    y = tl.zeros((SIZE,), tl.float32)
    for part in range(parts):
        place = first + part * rows_of_part
        kept = tl.exp2(tl.load(largest_ptr + place, mask=inside, other=0.0) - base)
        total += kept * tl.load(sum_ptr + place, mask=inside, other=0.0)
        y += kept * tl.load(mixed_ptr + place * WIDTH + channel % WIDTH, mask=inside, other=0.0)
    y = rounded(div_rn(y, tl.where(total == 0.0, 1.0, total)), DTYPE)
    y = stepped(y, channel, inside, smooth_ptr, permutation_ptr, SIZE, LEVELS, NORMALIZER)
    store_integers(y, channel, inside, row * channels, scale_ptr, q_ptr, s_ptr + row, LARGEST)


def attend_quantize(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_mask: Tensor | None = None,
    smooth: Tensor | None = None,
    permutation: Tensor | None = None,
    rotation: Tensor | None = None,
    scale: Tensor | None = None,
    bits: int = 8,
    pre_rotation: Tensor | None = None,
    *,
    shared: int,
    prefix: int,
    state_token: bool,
) -> tuple[Tensor, Tensor]:
    """See `attention_reference.attend_quantize`.

    Where a dense block or a first rotation needs a row that is whole, or attention is torch's, its result is stored
    first and the activation step reads it from there.

    Raises:
        InputError: shapes, dtypes or devices that do not fit together
    """
    if query.dim() != 4 or shared < 1 or query.shape[2] % shared:
        raise InputError(f"a query {list(query.shape)} is not [B, G, T * shared, D] for shared={shared}")
    batch, groups, count, width = query.shape
    tokens, channels = count // shared, groups * shared * width
    check_width("all heads' attention", channels)
    steps = Steps(smooth, permutation, rotation, scale, bits, pre_rotation).checked(channels, query.device)
    options: dict[str, Any] = {"shared": shared, "prefix": prefix, "state_token": state_token}
    if not (steps.one_launch and attention.has_kernel(query.device)):
        mixed = attention.attend_few(query, key, value, prefix_mask, **options)
        by_token = mixed.view(batch, groups, tokens, shared, width).transpose(1, 2)
        return quantized(plain(by_token.reshape(batch * tokens, channels)), steps)
    parts = attention.attend_in_parts(query, key, value, prefix_mask, **options)
    q = torch.empty(batch * tokens, channels, dtype=torch.int8, device=query.device)
    s = torch.empty(len(q), 1, dtype=torch.float32, device=query.device)
    size = triton.next_power_of_2(channels)
    if len(q):
        combine_row_kernel[(len(q),)](
            *parts,
            steps.smooth,
            steps.permutation,
            steps.scale,
            q,
            s,
            groups,
            tokens,
            parts.mixed.shape[1],
            channels,
            WIDTH=width,
            SHARED=shared,
            SIZE=size,
            LEVELS=steps.block.bit_length() - 1,
            NORMALIZER=steps.block**-0.5,
            LARGEST=float(largest_activation(steps.bits)),
            DTYPE=STORED[value.dtype],
            num_warps=rows.warps(size),
            enable_fp_fusion=False,
        )
    return q, s


def specimens() -> list[Specimen]:
    """π0.5's expert: eight heads of 256 channels, and the presets' steps."""
    return [
        Specimen(
            kernel=combine_row_kernel,
            name="attention, parts to integers",
            signature={
                **{f"{name}_ptr": "*fp32" for name in ("mixed", "largest", "sum", "s")},
                **{"q_ptr": "*i8", "permutation_ptr": "*u16"},
                **dict.fromkeys(("groups", "tokens", "parts", "channels"), "i32"),
            },
            constexprs={
                **{
                    "smooth_ptr": None,
                    "scale_ptr": None,
                    "WIDTH": 256,
                    "SHARED": 8,
                    "SIZE": 2048,
                    "DTYPE": tl.bfloat16,
                },
                **{"LEVELS": 6, "NORMALIZER": 0.125, "LARGEST": 127.0},
            },
            num_warps=rows.warps(2048),
            divides_exactly=True,
        )
    ]
