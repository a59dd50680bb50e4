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
from vlapack.ops.triton import rows
from vlapack.ops.triton.activation import Source, Steps, one_launch, quantized
from vlapack.ops.triton.attention import attend_few, attend_in_parts
from vlapack.ops.triton.numeric import div_rn, rounded
from vlapack.ops.triton.rows import stepped, store_integers
from vlapack.ops.triton.specimen import Specimen


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
    source = channel
    if permutation_ptr is not None:
        source = tl.load(permutation_ptr + channel, mask=inside, other=0).to(tl.int32)
    head = source // WIDTH
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
        y += kept * tl.load(mixed_ptr + place * WIDTH + source % WIDTH, mask=inside, other=0.0)
    y = rounded(div_rn(y, tl.where(total == 0.0, 1.0, total)), DTYPE)
    y = stepped(y, source, inside, smooth_ptr, SIZE, LEVELS, NORMALIZER)
    store_integers(y, channel, inside, row * channels, scale_ptr, q_ptr, s_ptr + row, LARGEST)


def attend_quantize(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    steps: Steps,
    prefix_mask: Tensor | None = None,
    *,
    shared: int,
    prefix: int | None = None,
    state_token: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attend as `attend_few` does, and round the result for the output product.

    Args:
        query: [B, G, T * shared, D]; the others as in `attend_few`.
        key: [B, G, S, D].
        value: [B, G, S, D].
        steps: Of the output product's input, whose K is G * shared * D, head by head.
        prefix_mask: Boolean [B, P] or None.
        shared: Query heads that share a key-value head.
        prefix: P.
        state_token: π0's rule.

    Returns:
        q [B * T, K] int8 and s [B * T, 1] fp32.
    """
    if query.dim() != 4 or shared < 1 or query.shape[2] % shared:
        raise InputError(f"a query {list(query.shape)} is not [B, G, T * shared, D] for shared={shared}")
    batch, groups, count, width = query.shape
    tokens, channels = count // shared, groups * shared * width
    if channels > rows.WIDEST:
        raise InputError(f"{channels} channels of all heads: this engine takes 1 to {rows.WIDEST}")
    steps = steps.checked(channels, query.device)
    options: dict[str, Any] = {"shared": shared, "prefix": prefix, "state_token": state_token}
    if not one_launch(steps):
        mixed = attend_few(query, key, value, prefix_mask, **options)
        by_token = mixed.view(batch, groups, tokens, shared, width).transpose(1, 2)
        return quantized(Source("plain", by_token.reshape(batch * tokens, channels)), steps)
    parts = attend_in_parts(query, key, value, prefix_mask, **options)
    q = torch.empty(batch * tokens, channels, dtype=torch.int8, device=query.device)
    s = torch.empty(len(q), 1, dtype=torch.float32, device=query.device)
    size = triton.next_power_of_2(channels)
    block = 1 if steps.rotation is None else steps.rotation.shape[1]
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
            LEVELS=block.bit_length() - 1,
            NORMALIZER=block**-0.5,
            LARGEST=float(largest_activation(steps.bits)),
            DTYPE=_STORED[value.dtype],
            num_warps=rows.warps(size),
            enable_fp_fusion=False,
        )
    return q, s


_STORED = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


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
