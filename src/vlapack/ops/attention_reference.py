"""The definition of attention's ops, in plain torch: from queries, keys and values to what enters the next product.

They are fused ops too: like those of `fused_reference` they may read a product's sums, and round where plain torch
would store a result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention, softmax

from vlapack.ops import reference
from vlapack.ops.fused_reference import ended


def turn_and_keep(  # noqa: PLR0917
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
    """Cut one product or two into queries, keys and values, turn the first two by position, and keep the last two.

    Args:
        product: [B · T, (heads + 2 G) · D] in the dtype of `keys`, or sums of it (see `ended`): the queries' heads, the
            G keys, the G values. With a `rest`, the first of these heads.
        cos: [B or 1, T, 1, D], as the sines with their signs (`pi0.positions.rotary_table`).
        sin: The same.
        keys: [B, G, S, D]; the tokens `first` to `first` + T are written.
        values: The same.
        first: Where.
        s: Of the sums, as the next two.
        weight_scale: [N, 1] fp32.
        bias: [N] or None.
        rest: The other heads, where they are a product of their own; like `product`, as the next three are like s,
            weight_scale and bias.
        rest_s: Of its sums.
        rest_weight_scale: Of its sums.
        rest_bias: Of its sums.
        heads: Of the queries; 0 where only keys and values are wanted.

    Returns:
        The queries [B, T, heads, D].
    """
    batch, groups, _, width = keys.shape
    tokens = cos.shape[1]
    y = ended(product, s, weight_scale, bias, keys.dtype)
    if rest is not None:
        y = torch.cat((y, ended(rest, rest_s, rest_weight_scale, rest_bias, keys.dtype)), dim=1)
    y = y.view(batch, tokens, heads + 2 * groups, width)
    low, high = y[:, :, : heads + groups].chunk(2, dim=-1)
    turned = y[:, :, : heads + groups] * cos + torch.cat((high, low), dim=-1) * sin
    keys[:, :, first : first + tokens] = turned[:, :, heads:].transpose(1, 2)
    values[:, :, first : first + tokens] = y[:, :, heads + groups :].transpose(1, 2)
    return turned[:, :, :heads].contiguous()


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention softmax(q kᵀ / √D) v of all tokens, as two products: as openpi does it.

    In bf16 on a CPU that is faster than torch's fused kernel, which does not use bf16's instructions there.

    Args:
        query: [B, G, Q, D].
        key: [B, G, S, D].
        value: The same.
        mask: Boolean, broadcastable to [B, G, Q, S]: where a query sees a key; None: everywhere.

    Returns:
        [B, G, Q, D], which lies in memory as [B, Q, G, D]: the next product wants all heads of a token side by side.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (softmax(scores, dim=-1) @ value).transpose(1, 2).contiguous().transpose(1, 2)


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
    """Attention softmax(q kᵀ / √D) v of a denoise step's few queries.

    Args:
        query: [B, G, T · shared, D]: `shared` neighbouring rows are the heads of one token.
        key: [B, G, S, D]: the prefix's tokens, then those of the queries.
        value: The same.
        prefix_mask: Boolean [B, P]: which tokens of the prefix exist; None: all.
        shared: Query heads that share a key.
        prefix: P.
        state_token: Whether the first token is π0's state, which sees the prefix and itself only.

    Returns:
        [B, G, T · shared, D] in the dtype of `value`.
    """
    mask = None
    if prefix_mask is not None or state_token:
        batch, rows, tokens = len(query), query.shape[2], key.shape[2]
        mask = torch.ones(batch, 1, rows, tokens, dtype=torch.bool, device=query.device)
        if prefix_mask is not None:
            mask = mask & pad(prefix_mask, (0, tokens - prefix), value=True)[:, None, None]
        if state_token:
            mask[:, :, :shared, prefix + 1 :] = False
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


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
    """Attend as `attend_few` does, and round the result for the output product.

    Returns:
        q [B · T, G · shared · D] int8, head by head, and s [B · T, 1] fp32.
    """
    mixed = attend_few(query, key, value, prefix_mask, shared=shared, prefix=prefix, state_token=state_token)
    y = by_token(mixed, shared)
    return reference.quantize_activation(y, smooth, permutation, rotation, scale, bits, pre_rotation)


def by_token(mixed: Tensor, shared: int) -> Tensor:
    """[B, G, T · shared, D] → [B · T, G · shared · D], head by head; with one G a view."""
    batch, groups, rows, width = mixed.shape
    tokens = rows // shared
    return mixed.view(batch, groups, tokens, shared, width).transpose(1, 2).reshape(batch * tokens, -1)
