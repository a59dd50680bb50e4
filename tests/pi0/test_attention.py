"""bf16 attention on a CPU, which takes a way of its own, against the fused kernel in fp32."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from vlapack.pi0.attention import attend


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [1, 80])
def test_bf16_attention_is_attention(rows: int, masked: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, count, 24, generator=draw).to(torch.bfloat16) for count in (rows, 37, 37))
    mask = (torch.rand(2, 1, 1, 37, generator=draw) < 0.5) if masked else None
    found = attend(query, key, value, mask)
    expected = scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
