"""Factors of attention: what a softmax sees, what is left alone, and where they may be applied."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vlapack.methods.balance import attention_logits, matching_factor, scale_rows
from vlapack.pi0.positions import rotary_table, rotate


def one_by_one(query: Tensor, key: Tensor) -> Tensor:
    batch, tokens, heads, width = query.shape
    out = torch.empty(batch, heads, tokens, key.shape[2], dtype=torch.float64)
    for b, h, t, s in torch.cartesian_prod(*(torch.arange(n) for n in out.shape)).tolist():
        group = h // (heads // key.shape[1])
        out[b, h, t, s] = query[b, t, h].double() @ key[b, group, s].double() / math.sqrt(width)
    return out


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_logits_are_those_of_each_head_with_its_groups_keys(groups: int) -> None:
    query, key = torch.randn(2, 3, 6, 8), torch.randn(2, groups, 5, 8)
    torch.testing.assert_close(attention_logits(query, key).double(), one_by_one(query, key), atol=1e-5, rtol=1e-5)


def test_a_factor_on_rows_of_q_is_that_factor_on_the_heads_logits() -> None:
    heads, width, tokens = 4, 6, 3
    weight, x, key = torch.randn(heads * width, 10), torch.randn(1, tokens, 10), torch.randn(1, 2, 7, width)
    alpha = torch.tensor([0.7, 1.0, 1.1, 1.4])
    rope = rotary_table(torch.arange(5, 5 + tokens)[None], width, torch.float32)

    def logits(weight: Tensor) -> Tensor:
        return attention_logits(rotate((x @ weight.T).view(1, tokens, heads, width), rope), key)

    torch.testing.assert_close(logits(scale_rows(weight, alpha)), logits(weight) * alpha[:, None, None])


def test_what_is_small_is_left_alone_and_what_is_large_is_held_back() -> None:
    wanted = torch.tensor([1.0, 1.02, 0.98, 1.2, 0.8, 3.0, 0.1, 0.0, 1.0], dtype=torch.float64)
    found = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    assert matching_factor(wanted, found).tolist() == pytest.approx([1, 1, 1, 1.2, 0.8, 1.4, 0.7, 1, 1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_keep_their_type(dtype: torch.dtype) -> None:
    rows = torch.ones(6, 1, dtype=dtype)
    scaled = scale_rows(rows, torch.tensor([1.0, 1.25, 0.75]))
    assert scaled.dtype == dtype
    assert scaled[:, 0].tolist() == [1, 1, 1.25, 1.25, 0.75, 0.75]
