"""The CPU's attention against float64, on every instruction set of this CPU."""

from __future__ import annotations

import pytest
import torch
from extras import needs
from torch.nn.functional import scaled_dot_product_attention

from vlapack.errors import InputError
from vlapack.ops import attention_reference as definition
from vlapack.ops import cpu_attention, engine, fused

needs("vlapack._kernels", remedy="install vlapack where there is a C++17 compiler")

BF16 = torch.bfloat16
PLAIN = {"shared": 1, "prefix": 0, "state_token": False}


@pytest.fixture(params=engine.kernels.available(), autouse=True)
def isa(request, monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "cpu")
    engine.active()
    before = engine.kernels.isa()
    engine.kernels.choose(request.param)
    yield request.param
    engine.kernels.choose(before)


def draw(rows, tokens, width, batch=1, groups=1):
    """Queries, keys and values [batch, groups, …, width]."""
    return tuple(torch.randn(batch, groups, count, width).to(BF16) for count in (rows, tokens, tokens))


def assert_near(found, query, key, value, mask=None, **options):
    """Every output is within what rounding weights and result to bf16 can do, by the definition in float64."""
    wide = [one.double() for one in (query, key, value)]
    expected = definition.attend_few(*wide, mask, **options)
    reach = definition.attend_few(*wide[:2], wide[2].abs(), mask, **options)  # what the rounded weights stand before
    assert found.dtype == BF16
    assert ((found.double() - expected).abs() <= (2 * reach + expected.abs()) / 500).all()


@pytest.mark.parametrize("rows", [1, 7, 80, 81])
@pytest.mark.parametrize("width", [8, 72, 256])
@pytest.mark.parametrize("tokens", [1, 15, 17, 33, 100])
def test_any_shape_is_attention(tokens, width, rows):
    tensors = draw(rows, tokens, width)
    assert_near(cpu_attention.attend_few(*tensors, **PLAIN), *tensors, **PLAIN)


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("shared", [1, 3, 8])
def test_masks_and_the_state_token_hide_what_they_should(shared, state):
    exists = torch.rand(3, 41) < 0.5
    exists[:, 5] = True
    options = {"shared": shared, "prefix": 41, "state_token": state}
    tensors = draw(10 * shared, 51, 24, batch=3, groups=2)
    for mask in (None, exists, exists[:, ::2].repeat_interleave(2, 1)[:, :41]):
        assert_near(cpu_attention.attend_few(*tensors, mask, **options), *tensors, mask, **options)


def test_a_single_visible_key_gives_its_value():
    query, key, value = draw(9, 70, 72)
    exists = torch.arange(70)[None] == 33
    found = cpu_attention.attend_few(query, key, value, exists, shared=1, prefix=70, state_token=False)
    assert torch.equal(found, value[:, :, 33:34].expand_as(found))


def test_hidden_tokens_do_not_change_a_bit():
    query, key, value = draw(9, 70, 72)
    options = {"shared": 1, "prefix": 64, "state_token": False}
    exists = torch.arange(64)[None] < 50
    found = cpu_attention.attend_few(query, key, value, exists, **options)
    key[:, :, 50:64], value[:, :, 50:64] = torch.nan, -1e30
    assert torch.equal(cpu_attention.attend_few(query, key, value, exists, **options), found)


def test_equal_values_come_out_as_they_were():
    query, key, value = draw(13, 97, 40)
    value[:] = value[:, :, :1]
    assert torch.equal(cpu_attention.attend_few(query, key, value, **PLAIN), value[:, :, :13])


@pytest.mark.parametrize("size", [1e4, 1e18])
def test_huge_logits_choose_the_largest(size):
    query, key, value = draw(5, 40, 16)
    query, key = query * size**0.5, key * size**0.5
    winner = (query.double() @ key.double().mT).argmax(-1)[0, 0]
    found = cpu_attention.attend_few(query, key, value, **PLAIN)
    assert torch.equal(found[0, 0], value[0, 0, winner])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_query_spoils_its_own_row_only(bad):
    query, key, value = draw(14, 40, 16)
    expected = cpu_attention.attend_few(query, key, value, **PLAIN)
    query[0, 0, 6, 3] = bad
    found = cpu_attention.attend_few(query, key, value, **PLAIN)
    assert found[0, 0, 6].isnan().all()
    others = torch.arange(14) != 6
    assert torch.equal(found[:, :, others], expected[:, :, others])


def test_bad_values_come_out():
    query, key, value = draw(14, 40, 16)
    value[0, 0, 7, 3], value[0, 0, 8, 4] = torch.nan, torch.inf
    found = cpu_attention.attend_few(query, key, value, **PLAIN)
    assert found[..., 3].isnan().all()
    assert (found[..., 4] == torch.inf).all()
    assert found[..., 5:].isfinite().all()


def test_tensors_are_read_where_they_lie():
    rows = torch.randn(2, 30, 3, 4, 24).to(BF16)  # [B, T, of q k v, heads, D], as one product would leave it
    query, key, value = (one.transpose(1, 2) for one in rows.unbind(2))
    found = cpu_attention.attend_few(query, key, value, **PLAIN)
    assert torch.equal(found, cpu_attention.attend_few(*(one.contiguous() for one in (query, key, value)), **PLAIN))
    turned = query.mT.contiguous().mT
    assert torch.equal(cpu_attention.attend_few(turned, key, value, **PLAIN), found)


@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (80, 1), (5, 7), (300, 2)])
def test_bits_do_not_depend_on_threads(rows, groups):
    tensors, found = draw(rows, 200, 72, groups=groups), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 8, 64):
            torch.set_num_threads(threads)
            found.append(cpu_attention.attend_few(*tensors, **PLAIN))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_all_tokens_is_the_same_in_another_order_of_memory(isa, masked):
    query, key, value = draw(30, 20, 24, batch=2, groups=3)
    mask = (torch.rand(2, 1, 1, 20) < 0.7).index_fill(3, torch.tensor(3), True) if masked else None
    found = fused.attend(query, key, value, mask)
    exists = mask[:, 0, 0] if masked else None
    expected = cpu_attention.attend_few(query, key, value, exists, shared=1, prefix=20, state_token=False)
    assert torch.equal(found, expected) == (isa in cpu_attention.FASTER)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.04)
    assert found.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("shape", [(1, 1, 1, 9), (2, 1, 1, 9), (1, 1, 6, 9), (2, 3, 6, 9), (9,)])
def test_masks_of_every_shape_are_the_definitions(shape):
    query, key, value = draw(6, 9, 8, batch=2, groups=3)
    mask = torch.rand(shape) < 0.5
    mask[..., 4] = True
    found = fused.attend(query, key, value, mask).double()
    expected = definition.attend(query.double(), key.double(), value.double(), mask)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.04)


def test_the_op_runs_it():
    query, key, value = draw(6, 9, 8, batch=2)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    options = {"shared": 2, "prefix": 6, "state_token": True}
    expected = cpu_attention.attend_few(query, key, value, mask, **options)
    assert torch.equal(fused.attend_few(query, key, value, mask, **options), expected)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float64, 8), (BF16, 12)])
def test_what_the_kernel_does_not_take_is_the_definition(dtype, width):
    query, key, value = (torch.randn(1, 1, 5, width).to(dtype) for _ in range(3))
    found = cpu_attention.attend_few(query, key, value, **PLAIN)
    assert torch.equal(found, scaled_dot_product_attention(query, key, value))


def test_no_rows_are_no_trouble():
    query, key, value = draw(0, 9, 8)
    assert cpu_attention.attend_few(query, key, value, **PLAIN).shape == (1, 1, 0, 8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": torch.zeros(1, 1, 9, 16, dtype=BF16)}, r"\[1, 1, 9, 16\]"),
        ({"value": torch.zeros(1, 1, 8, 8, dtype=BF16)}, r"\[1, 1, 8, 8\]: they must be"),
        ({"shared": 4}, "6 rows of `shared=4` heads"),
        ({"prefix": 10}, "`prefix=10` of 9 tokens"),
        ({"prefix": 9, "state_token": True}, "`prefix=9` of 9 tokens"),
        ({"prefix_mask": torch.ones(1, 6)}, r"the mask must be torch.bool \[1, 7\], not torch.float32 \[1, 6\]"),
        ({"value": torch.zeros(1, 1, 9, 8, dtype=BF16, device="meta")}, "must all be on the cpu"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_numbers(change, said):
    query, key, value = draw(6, 9, 8)
    good = {"query": query, "key": key, "value": value, "shared": 2, "prefix": 7, "state_token": False}
    with pytest.raises(InputError, match=said):
        cpu_attention.attend_few(**(good | change))
