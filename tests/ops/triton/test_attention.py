"""Attention over few queries agrees with the network's own, for every mask that a denoise step has."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from vlapack.errors import InputError
from vlapack.methods.rotate import hadamard
from vlapack.ops import attention_reference as reference
from vlapack.ops.reference import quantize_activation
from vlapack.ops.triton import attention
from vlapack.ops.triton.attention_step import attend_quantize
from vlapack.pi0.attention import attend

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Of outputs up to 2 (a query that sees one key). Measured on 542 keys, outputs up to 0.3: 2.3e-7, 1.1e-3 and 1.2e-4;
torch's own attention on a CPU: 1.7e-7, 4e-3 and 1.4e-4."""


def attend_few(query, key, value, prefix_mask=None, *, shared=1, prefix=None, state_token=False):
    """The op, and the prefix that a mask has if it has one."""
    prefix = prefix if prefix is not None else 0 if prefix_mask is None else prefix_mask.shape[1]
    return attention.attend_few(query, key, value, prefix_mask, shared=shared, prefix=prefix, state_token=state_token)


def exact(query, key, value, mask=None):
    return attend(query.double(), key.double(), value.double(), mask)


def inputs(size, dtype=torch.float32):
    """Query, key and value for B, G, R, S and D."""
    batch, groups, rows, tokens, width = size
    return tuple(torch.randn(batch, groups, length, width).to(dtype) for length in (rows, tokens, tokens))


def suffix_mask(exists, prefix, suffix, batch, shared, *, state):
    """`pi0.network`'s mask over prefix and suffix, for each row."""
    mask = torch.ones(batch, 1, suffix, prefix + suffix, dtype=torch.bool)
    if exists is not None:
        mask[:, 0, :, :prefix] = exists[:, None]
    if state:
        mask[:, :, 0, prefix + 1 :] = False
    return mask.repeat_interleave(shared, dim=2)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [(1, 1, 24, 542, 256), (2, 1, 24, 130, 32), (1, 3, 5, 17, 24), (1, 1, 1, 1, 8)])
def test_a_few_queries_see_every_key(size, dtype):
    query, key, value = inputs(size, dtype)
    found = attend_few(query, key, value)
    assert found.dtype == dtype
    assert (found - exact(query, key, value)).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_denoise_step_sees_what_the_networks_mask_says(masked, state):
    batch, shared, suffix, prefix = 2, 4, 5, 150
    query, key, value = inputs((batch, 1, shared * suffix, prefix + suffix, 16))
    exists = torch.rand(batch, prefix) < 0.5 if masked else None
    mask = suffix_mask(exists, prefix, suffix, batch, shared, state=state)
    found = attend_few(query, key, value, exists, shared=shared, prefix=prefix, state_token=state)
    assert (found - exact(query, key, value, mask)).abs().max() < TOLERANCE[torch.float32]


def test_a_part_without_a_visible_key_adds_nothing():
    query, key, value = inputs((2, 1, 8, 200, 16))
    exists = torch.zeros(2, 190, dtype=torch.bool)
    exists[1, 100] = True
    mask = pad(exists, (0, 10), value=True)[:, None, None, :]
    found = attend_few(query, key, value, exists)
    assert (found - exact(query, key, value, mask)).abs().max() < TOLERANCE[torch.float32]


def test_a_query_without_a_visible_key_gets_zeros():
    query, key, value = inputs((1, 1, 3, 70, 16))
    assert not attend_few(query, key, value, torch.zeros(1, 70, dtype=torch.bool)).any()


def test_keys_for_more_parts_than_there_are_share_programs():
    query, key, value = inputs((1, 1, 2, 2100, 16))
    assert (attend_few(query, key, value) - exact(query, key, value)).abs().max() < TOLERANCE[torch.float32]


def test_scores_as_large_as_fp32_holds_do_not_overflow():
    query, key, value = inputs((1, 1, 4, 100, 16))
    found = attend_few(query * 1e4, key * 1e4, value)
    assert (found - exact(query * 1e4, key * 1e4, value)).abs().max() < 1e-4


def test_a_key_that_is_nan_is_not_hidden():
    query, key, value = inputs((1, 1, 4, 100, 16))
    key[0, 0, 70] = torch.nan
    assert attend_few(query, key, value).isnan().all()
    assert not attend_few(query, key, value, torch.arange(100)[None] < 70).isnan().any()


def test_strided_inputs_are_read_where_they_lie():
    query = torch.randn(2, 2, 2, 3, 16).transpose(1, 2).flatten(2, 3)
    key, value = torch.randn(2, 2, 30, 16)[:, :, :21], torch.randn(2, 21, 2, 16).transpose(1, 2)
    turned = torch.randn(2, 2, 16, 21).transpose(2, 3)
    for keys in (key, turned):
        found = attend_few(query, keys, value, shared=3)
        assert (found - exact(query, keys, value)).abs().max() < TOLERANCE[torch.float32]


def test_a_mask_that_is_part_of_a_larger_one_is_read_where_it_lies():
    query, key, value = inputs((3, 1, 4, 80, 16))
    larger = torch.rand(3, 90) < 0.5
    for mask in (larger[:, 7:77], larger[:1, :70].expand(3, 70), torch.rand(70, 3).T < 0.5):
        assert torch.equal(attend_few(query, key, value, mask), attend_few(query, key, value, mask.contiguous()))


@pytest.mark.parametrize("has_kernel", [True, False])
@pytest.mark.parametrize(("groups", "dtype"), [(1, torch.bfloat16), (2, torch.float32), (1, torch.float16)])
def test_the_output_products_step_takes_the_same_row(groups, dtype, has_kernel, monkeypatch):
    """Cards without the kernel take torch's attention, and the step after it."""
    monkeypatch.setattr(attention, "has_kernel", lambda device: has_kernel)
    batch, shared, suffix, prefix, width = 2, 2, 2, 70, 16
    query, key, value = inputs((batch, groups, shared * suffix, prefix + suffix, width), dtype)
    k = groups * shared * width
    options = {"shared": shared, "prefix": prefix, "state_token": True}
    exists = torch.rand(batch, prefix) < 0.5
    mixed = attend_few(query, key, value, exists, **options)
    rows = mixed.view(batch, groups, suffix, shared, width).transpose(1, 2).reshape(-1, k)
    permutation, dense = torch.randperm(k), torch.linalg.qr(torch.randn(1, 16, 16))[0].contiguous()
    for steps in (
        {},
        {"smooth": torch.rand(k) + 0.5, "permutation": permutation, "rotation": hadamard(32).float(), "bits": 4},
        {"permutation": permutation, "rotation": dense, "scale": torch.tensor([0.01])},
        {"permutation": permutation, "pre_rotation": dense},
    ):
        q, s = attend_quantize(query, key, value, exists, **steps, **options)
        expected, scale = quantize_activation(rows, **steps)
        differs = (q.int() - expected.int()).abs()
        assert differs.amax() <= 1
        assert differs.sum() <= 1
        assert torch.allclose(s, scale, rtol=max(1e-5, torch.finfo(dtype).eps))


def test_turned_queries_are_read_as_the_heads_of_their_tokens():
    """As `turn_and_keep` returns them: [B, T, heads, D] is [B, 1, T * heads, D] without a copy."""
    turned, (_, key, value) = torch.randn(2, 3, 4, 16), inputs((2, 1, 1, 9, 16))
    options = {"shared": 4, "prefix": 6, "state_token": True}
    query = turned.view(2, 1, 12, 16)
    expected = reference.attend_quantize(query, key, value, **options)
    q, s = attend_quantize(query, key, value, **options)
    assert (q.int() - expected[0].int()).abs().sum() <= 1
    assert torch.allclose(s, expected[1], rtol=1e-5)


def test_a_query_that_is_no_row_of_heads_is_refused():
    query, key, value = inputs((1, 1, 9, 20, 16))
    with pytest.raises(InputError, match=r"\[1, 1, 9, 16\] is not .* shared=4"):
        attend_quantize(query, key, value, shared=4, prefix=10, state_token=False)


GOOD = dict(zip(("query", "key", "value"), inputs((2, 1, 8, 20, 16)), strict=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"query": torch.zeros(8, 16)}, r"\[8, 16\] on cpu"),
        ({"value": torch.zeros(2, 1, 21, 16)}, r"\[2, 1, 21, 16\]"),
        ({"query": torch.zeros(2, 2, 8, 16)}, "must agree"),
        ({"query": torch.zeros(2, 1, 8, 16).double()}, "one dtype of"),
        ({"value": torch.zeros(2, 1, 20, 16).half()}, "one dtype and one device"),
        ({"prefix_mask": torch.ones(2, 12)}, r"bool \[2, 12\] on cpu, not torch.float32 \[2, 12\]"),
        ({"prefix_mask": torch.ones(1, 12, dtype=torch.bool)}, r"not torch.bool \[1, 12\]"),
        ({"prefix_mask": torch.ones(2, 21, dtype=torch.bool)}, "prefix=21 of 20 keys"),
        ({"prefix_mask": torch.ones(2, 12, dtype=torch.bool), "prefix": 13}, r"bool \[2, 13\]"),
        ({"prefix": 20, "state_token": True}, "prefix=20 of 20 keys: it must be from 0 to one less"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_shapes(change, said):
    with pytest.raises(InputError, match=said):
        attend_few(**GOOD | change)
