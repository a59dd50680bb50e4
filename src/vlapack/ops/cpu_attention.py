"""Attention on the `cpu` engine: checks the tensors and hands their addresses to csrc/attention.cpp.

Scores and sums are fp32. The weights are rounded to bf16 before the second product, as torch's two products in bf16 do;
torch rounds the scores as well, and its weights no longer add up to 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops import attention_reference as reference
from vlapack.ops import engine
from vlapack.ops.cpu import address, quantize_activation
from vlapack.ops.engine import kernels

CHANNELS = 8
"""A head's must be a multiple of these."""
FASTER = ("avx512vnni", "avxvnni", "avx2")
"""Where the kernel is faster than torch's two products (docs/kernels.md): not measured elsewhere, and with AMX torch's
run on tiles."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """See `attention_reference.attend`.

    That is what runs where `in_bf16` says no, each query has a mask of its own, or an instruction set is in use that is
    not `FASTER`.

    Raises:
        InputError: shapes or devices that do not fit together.
    """
    per_key = mask is None or mask.shape[-3:-1] == (1, 1)
    if not in_bf16(query, key, value) or not per_key or kernels.isa() not in FASTER:
        return reference.attend(query, key, value, mask)
    batch, groups, rows, width = query.shape
    out = torch.empty(batch, rows, groups, width, dtype=query.dtype).transpose(1, 2)
    exists = None if mask is None else mask[..., 0, 0, :].expand(batch, -1)
    _run(query, key, value, exists, out, shared=1, prefix=key.shape[2], state_token=False)
    return out


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
    """See `attention_reference.attend_few`, which is what runs where `takes` says no.

    Any number of rows will do. A query that sees no key gets NaN.

    Raises:
        InputError: shapes, dtypes or devices that do not fit together.
    """
    options: dict[str, Any] = {"shared": shared, "prefix": prefix, "state_token": state_token}
    if not takes(query, key, value):
        return reference.attend_few(query, key, value, prefix_mask, **options)
    out = torch.empty(query.shape, dtype=query.dtype)
    _run(query, key, value, prefix_mask, out, **options)
    return out


def attend_quantize(  # noqa: PLR0917
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
    """See `attention_reference.attend_quantize`."""
    mixed = attend_few(query, key, value, prefix_mask, shared=shared, prefix=prefix, state_token=state_token)
    y = reference.by_token(mixed, shared)
    return quantize_activation(y, smooth, permutation, rotation, scale, bits, pre_rotation)


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether a kernel computes this: `in_bf16`, or all in fp32, with something to see."""
    in_fp32 = all(one.dtype == torch.float32 and one.dim() == 4 for one in (query, key, value)) and key.shape[2] > 0
    return in_fp32 or in_bf16(query, key, value)


def in_bf16(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether all is bf16, of four dimensions, with a D that is a multiple of 8, and something to see."""
    if any(one.dtype != torch.bfloat16 or one.dim() != 4 for one in (query, key, value)):
        return False
    return query.shape[3] % CHANNELS == 0 and query.shape[3] > 0 and key.shape[2] > 0


def lays_out(keys: Tensor) -> bool:
    """Whether keys are such as the kernel for bf16 reads, on this engine."""
    return keys.device.type == "cpu" and in_bf16(keys, keys, keys) and engine.active() == "cpu"


def laid_out(keys: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the first `count` tokens of keys and values as the kernel for bf16 reads them, with room for the others.

    Args:
        keys: [B, G, S, D] bf16, contiguous, as the values.
        values: The same.
        count: at most S.
    """
    batch, groups, room, width = keys.shape
    laid_keys, laid_values = (keys.new_empty(batch, size) for size in kernels.laid_out_elements(groups, room, width))
    places = laid_keys.data_ptr(), laid_values.data_ptr(), keys.data_ptr(), values.data_ptr()
    kernels.lay_out(batch, groups, room, width, *places, 0, count, torch.get_num_threads())
    return laid_keys, laid_values


def _run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    exists: Tensor | None,
    out: Tensor,
    *,
    shared: int,
    prefix: int,
    state_token: bool,
) -> None:
    batch, groups, rows, width = query.shape
    tokens = key.shape[2]
    if key.shape != (batch, groups, tokens, width) or value.shape != key.shape:
        found = f"{list(query.shape)}, {list(key.shape)}, {list(value.shape)}"
        raise InputError(f"query, key, value {found}: they must be [B, G, R, D], [B, G, S, D] and [B, G, S, D]")
    if shared < 1 or rows % shared:
        raise InputError(f"{rows} rows of `shared={shared}` heads: they must be whole tokens")
    if not 0 <= prefix <= tokens - state_token:
        raise InputError(f"`prefix={prefix}` of {tokens} tokens: the queries' own come behind it")
    if exists is not None and (exists.dtype != torch.bool or exists.shape != (batch, prefix)):
        raise InputError(f"the mask must be torch.bool {[batch, prefix]}, not {exists.dtype} {list(exists.shape)}")
    if any(one.device.type != "cpu" for one in (query, key, value, query if exists is None else exists)):
        raise InputError("query, key, value and their mask must all be on the cpu")
    query, key, value = (one if one.stride(3) == 1 else one.contiguous() for one in (query, key, value))
    mask = None if exists is None else exists.contiguous()
    kernels.attend(
        query.dtype == torch.bfloat16,
        batch,
        groups,
        width,
        rows // shared,
        shared,
        tokens,
        prefix,
        state_token,
        address(mask),
        torch.get_num_threads(),
        *(number for one in (query, key, value, out) for number in (one.data_ptr(), *one.stride()[:3])),
    )
