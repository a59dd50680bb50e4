"""Attention on the `cpu` engine: checks the tensors and hands their addresses to csrc/attention.cpp.

Scores and sums are fp32. The weights are rounded to bf16 before the second product, as torch's two products in bf16 do;
torch rounds the scores as well, and its weights no longer add up to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops import engine
from vlapack.ops import fused_reference as reference
from vlapack.ops.cpu import address
from vlapack.ops.engine import kernels

CHANNELS = 8
"""A head's must be a multiple of these."""


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
    """See `fused_reference.attend_few`, which is what runs on other dtypes than bf16 and fp32.

    Any number of rows will do. A query that sees no key gets NaN.

    Raises:
        InputError: shapes, dtypes or devices that do not fit together.
    """
    if not takes(query, key, value):
        return reference.attend_few(
            query, key, value, prefix_mask, shared=shared, prefix=prefix, state_token=state_token
        )
    batch, groups, rows, width = query.shape
    tokens = key.shape[2]
    if key.shape != (batch, groups, tokens, width) or value.shape != key.shape:
        found = f"{list(query.shape)}, {list(key.shape)}, {list(value.shape)}"
        raise InputError(f"query, key, value {found}: they must be [B, G, R, D], [B, G, S, D] and [B, G, S, D]")
    if shared < 1 or rows % shared:
        raise InputError(f"{rows} rows of `shared={shared}` heads: they must be whole tokens")
    if not 0 <= prefix <= tokens - state_token:
        raise InputError(f"`prefix={prefix}` of {tokens} tokens: the queries' own come behind it")
    if prefix_mask is not None and (prefix_mask.dtype != torch.bool or prefix_mask.shape != (batch, prefix)):
        raise InputError(
            f"prefix_mask must be torch.bool {[batch, prefix]}, not {prefix_mask.dtype} {list(prefix_mask.shape)}"
        )
    if any(one.device.type != "cpu" for one in (query, key, value, query if prefix_mask is None else prefix_mask)):
        raise InputError("query, key, value and prefix_mask must all be on the cpu")
    query, key, value = (one if one.stride(3) == 1 else one.contiguous() for one in (query, key, value))
    mask = None if prefix_mask is None else prefix_mask.contiguous()
    out = torch.empty(query.shape, dtype=value.dtype)
    attend = kernels.attend if value.dtype == torch.bfloat16 else kernels.attend_plain
    sizes = batch, groups, width, rows // shared, shared, tokens, prefix, state_token
    threads = torch.get_num_threads()
    attend(*sizes, *_place(query), *_place(key), *_place(value), address(mask), out.data_ptr(), threads)
    return out


def _place(tensor: Tensor) -> tuple[int, tuple[int, int, int]]:
    """Where it begins, and its strides but for the last, which is 1."""
    batch, group, row, _ = tensor.stride()
    return tensor.data_ptr(), (batch, group, row)


def lays_out(keys: Tensor) -> bool:
    """Whether keys are such as the kernel for bf16 reads, on this engine."""
    return (
        keys.device.type == "cpu"
        and takes(keys, keys, keys)
        and keys.dtype == torch.bfloat16
        and engine.active() == "cpu"
    )


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


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether a kernel computes this: fp32 or bf16 with a D that is a multiple of 8, and something to see."""
    if any(one.dtype != query.dtype or one.dim() != 4 for one in (query, key, value)) or not key.shape[2]:
        return False
    return query.dtype == torch.float32 or (query.dtype == torch.bfloat16 and query.shape[3] % CHANNELS == 0)
