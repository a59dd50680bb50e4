"""bf16 attention on a CPU, which takes ways of its own, against the fused kernel in fp32."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from vlapack.pi0.attention import attend


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("width", [24, 12])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [1, 80])
def test_bf16_attention_is_attention(rows: int, masked: bool, width: int, differentiable: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, count, width, generator=draw).to(torch.bfloat16) for count in (rows, 37, 37))
    mask = (torch.rand(2, 1, 1, 37, generator=draw) < 0.5) if masked else None
    with torch.set_grad_enabled(differentiable):
        found = attend(query, key, value, mask)
    expected = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def test_one_mask_may_serve_a_batch_and_each_query_may_have_its_own() -> None:
    query, key, value = torch.randn(3, 2, 3, 9, 8).to(torch.bfloat16).unbind(0)
    shared = (torch.arange(9) < 5)[None, None, None]
    with torch.no_grad():
        found = attend(query, key, value, shared)
        assert torch.equal(found, attend(query, key, value, shared.expand(2, 1, 1, 9)))
        own = attend(query, key, value, shared.expand(2, 1, 9, 9))
    torch.testing.assert_close(found, own, rtol=0.02, atol=0.02)


def test_bf16_attention_can_be_differentiated() -> None:
    query, key, value = torch.randn(3, 1, 1, 9, 8).to(torch.bfloat16).unbind(0)
    query.requires_grad_()
    attend(query, key, value).sum().backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()
