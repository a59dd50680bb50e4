"""Attention on the `cpu` engine: checks the tensors and hands their addresses to csrc/attention.cpp.

Scores and sums are fp32. The weights are rounded to bf16 before the second product, as torch's two products in bf16 do;
torch rounds the scores as well, and its weights no longer add up to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops import fused_reference as reference
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
    """See `fused_reference.attend_few`, which is what runs where not all is bf16, or D no multiple of 8.

    Any number of rows will do. A query that sees no key gets NaN.

    Raises:
        InputError: shapes, dtypes or devices that do not fit together.
    """
    if not takes(query, key, value):
        options = {"shared": shared, "prefix": prefix, "state_token": state_token}
        return reference.attend_few(query, key, value, prefix_mask, **options)
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
    kernels.attend(
        batch,
        groups,
        width,
        rows // shared,
        shared,
        tokens,
        prefix,
        state_token,
        query.data_ptr(),
        *query.stride()[:3],
        key.data_ptr(),
        *key.stride()[:3],
        value.data_ptr(),
        *value.stride()[:3],
        0 if mask is None else mask.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernel computes this: bf16, four dimensions, a D that is a multiple of 8, and something to see."""
    if any(one.dtype != torch.bfloat16 or one.dim() != 4 for one in (query, key, value)):
        return False
    return query.shape[3] % CHANNELS == 0 and query.shape[3] > 0 and key.shape[2] > 0
