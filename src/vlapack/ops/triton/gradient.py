"""The backward product: the gradient by a layer's outputs times the weights, laid out as for the forward product.

It sums over outputs. For some tokens, a program computes 64 of a block's 128 channels: 32 from the low nibbles of 32
bytes, 32 from the high ones. Each gradient is multiplied by its output's scale and split into two bf16 terms, as
`weight_only` splits activations. That keeps 16 bits, and the result is off by less than 1e-5 of its norm. If there are
too few programs, several share the outputs, and torch adds their parts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.transform import rotate_blocks
from vlapack.ops.triton import layout, tiles
from vlapack.ops.triton.arguments import check_group_size, checked_scale
from vlapack.ops.triton.matmul import group_scale, halves, place
from vlapack.ops.triton.specimen import Specimen
from vlapack.ops.triton.tensors import checked, described
from vlapack.ops.triton.weight_only import add_terms

RUN = 32
"""Neighboring channels in one half of a block; a program computes two runs."""
TERMS = 2


@triton.jit(do_not_specialize=["M"])
def gradient_kernel(
    gradient_ptr,
    weight_ptr,
    scale_ptr,
    found_ptr,
    M,
    N,
    K,
    weight_stride,
    groups,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    SPLIT: tl.constexpr,
    ASM: tl.constexpr,
    TERMS: tl.constexpr,
    RUN: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BAND: tl.constexpr,
):
    """found [SPLIT, M, K] = gradient (scale * W), each part over its share of the outputs.

    Args:
        gradient_ptr: [M, N] fp32
        weight_ptr: prepared, its rows `weight_stride` apart
        scale_ptr: [N, groups]
        found_ptr: [SPLIT, M, K] fp32
        BM: tokens of a program
        BN: outputs that it multiplies at a time
    """
    token, run = place(M, 2 * tl.cdiv(K, 128), BM, 1, BAND)
    block = run // 2
    begin = run % 2 * RUN
    tokens = token + tl.arange(0, BM)
    have_tokens = (tokens < M)[None, :]
    column = gradient_ptr + tokens.to(tl.int64)[None, :] * N
    steps = tl.cdiv(N, BN)
    each = tl.cdiv(steps, SPLIT)
    first = tl.program_id(1) * each
    low = tl.zeros((RUN, BM), tl.float32)
    high = tl.zeros((RUN, BM), tl.float32)
    for step in range(first, min(first + each, steps)):
        outputs = step * BN + tl.arange(0, BN)
        have_outputs = (outputs < N)[:, None]
        gradient = tl.load(column + outputs[:, None], mask=have_outputs & have_tokens, other=0.0)
        row = weight_ptr + outputs.to(tl.int64)[:, None] * weight_stride + begin
        low_weights, high_weights = halves(row, have_outputs, block, 0, RUN, BITS, ASM)
        scales = scale_ptr + outputs.to(tl.int64)[:, None] * groups
        if GROUP == 0:
            low_gradient = gradient * tl.load(scales, mask=have_outputs, other=0.0).to(tl.float32)
            high_gradient = low_gradient
        else:
            channel = block * 128 + begin
            low_gradient = gradient * group_scale(scales, have_outputs, channel // GROUP, groups)
            high_gradient = gradient * group_scale(scales, have_outputs, (channel + 64) // GROUP, groups)
        low = add_terms(tl.trans(low_weights), low_gradient, low, TERMS)
        high = add_terms(tl.trans(high_weights), high_gradient, high, TERMS)
    if BITS == 4:  # weights came as 16 times their value
        low = low * 0.0625
        high = high * 0.0625
    channels = block * 128 + begin + tl.arange(0, RUN)[:, None]
    places = found_ptr + (tl.program_id(1).to(tl.int64) * M + tokens)[None, :] * K + channels
    tl.store(places, low, mask=have_tokens & (channels < K))
    tl.store(places + 64, high, mask=have_tokens & (channels + 64 < K))


def linear_gradient(
    gradient: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    row_rotation: Tensor | None = None,
    *,
    inputs: int,
    group_size: int | None = None,
) -> Tensor:
    """See `reference.linear_gradient`; `weight` is what `layout.prepare` returned.

    Raises:
        InputError: a tensor has another dtype, shape or device than the others ask for, or there is no such group size.
    """
    check_group_size(group_size)
    device, outputs, bits = weight.device, len(weight), layout.bits_of(weight)
    if gradient.shape != (len(gradient), outputs) or not gradient.is_floating_point() or gradient.device != device:
        raise InputError(f"gradient must be floating [M, {outputs}] on {device}, not {described(gradient)}")
    weight = checked("weight", weight, torch.uint8, layout.prepared_shape(bits, outputs, inputs), device)
    scale = checked_scale(weight_scale, outputs, inputs, group_size, device)
    wide = gradient.float()
    if row_rotation is not None:
        wide = rotate_blocks(wide, row_rotation)
    tokens = len(wide)
    if not tokens * inputs:
        return wide.new_empty(tokens, inputs)
    tile, split = tiles.choose_backward(device, tokens, outputs, inputs)
    found = torch.empty(split, tokens, inputs, dtype=torch.float32, device=device)
    with tiles.on(device):
        gradient_kernel[(tiles.backward_programs(tile, tokens, inputs), split)](
            wide.contiguous(),
            weight,
            scale,
            found,
            tokens,
            outputs,
            inputs,
            weight.stride(0),
            scale.shape[1],
            **_constants(tile, bits, group_size, split),
            ASM=tiles.has_assembly(device),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=False,
        )
    return found[0] if split == 1 else found.sum(0)


def _constants(tile: tiles.Tile, bits: int, group_size: int | None, split: int) -> dict[str, int]:
    return {**tiles.constants(tile, bits, group_size, split), "TERMS": TERMS, "RUN": RUN}


def specimens() -> list[Specimen]:
    """Return each kind of weight and scale, at the tiles that each card takes."""
    return [
        Specimen(
            gradient_kernel,
            f"gradient {label} {tile}",
            {
                "gradient_ptr": "*fp32",
                "weight_ptr": "*u8",
                "scale_ptr": "*fp32" if group_size is None else "*bf16",
                "found_ptr": "*fp32",
                **dict.fromkeys(("M", "N", "K", "weight_stride", "groups"), "i32"),
            },
            {**_constants(tile, bits, group_size, 4), "ASM": True},
            tile.num_warps,
            tile.num_stages,
            "mma",
            targets=targets,
        )
        for kind, tile, targets in tiles.uses()
        if kind == "backward"
        for label, bits, group_size in (("4-bit", 4, None), ("8-bit", 8, None), ("4-bit groups of 32", 4, 32))
    ]
