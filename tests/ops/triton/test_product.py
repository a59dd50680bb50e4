"""Triton's products, under its interpreter, are the reference's bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu

from vlapack.errors import InputError
from vlapack.methods.rotate import hadamard
from vlapack.ops import reference
from vlapack.ops.int4 import pack_int4
from vlapack.ops.triton import layout, tiles
from vlapack.ops.triton.product import gated_product, int_linear, int_sums

SHAPES = [(1, 1, 1), (3, 5, 7), (0, 4, 16), (17, 33, 300), (2, 20, 640)]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def layer(n, k, bits, group_size=None):
    """A weight as stored and as prepared, and scales; the first row is as low as can be."""
    low = -(2 ** (bits - 1))
    w = torch.randint(low, -low, (n, k), dtype=torch.int8)
    w[0] = low
    stored = pack_int4(w) if bits == 4 else w
    scale = torch.rand(n, 1) if group_size is None else torch.rand(n, -(-k // group_size)).bfloat16()
    return stored, layout.prepare(stored, bits, k), scale


def activations(m, k):
    q = torch.randint(-128, 128, (m, k), dtype=torch.int8)
    q[:1] = -128
    return q, torch.rand(m, 1) / k


@pytest.mark.parametrize("group_size", [None, 32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_are_the_references_bit_for_bit(m, n, k, bits, group_size):
    stored, prepared, scale = layer(n, k, bits, group_size)
    q, s = activations(m, k)
    options = {"bias": torch.randn(n), "dtype": torch.float32, "group_size": group_size}
    found = int_linear(q, s, prepared, scale, **options)
    assert torch.equal(found, reference.int_linear(q, s, stored, scale, **options))


@pytest.mark.parametrize("group_size", [None, 128])
def test_many_tokens_take_the_large_tiles(group_size):
    stored, prepared, scale = layer(70, 136, 4, group_size)
    q, s = activations(80, 136)
    options = {"dtype": torch.float32, "group_size": group_size}
    found = int_linear(q, s, prepared, scale, **options)
    assert torch.equal(found, reference.int_linear(q, s, stored, scale, **options))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels", [100, 1024])
def test_results_are_rounded_as_the_reference_rounds_them(dtype, channels):
    stored, prepared, scale = layer(33, channels, 4)
    q, s = activations(5, channels)
    bias = torch.randn(33, dtype=torch.bfloat16)
    found = int_linear(q, s, prepared, scale, None, bias, dtype=dtype)
    assert found.dtype == dtype
    assert torch.equal(found, reference.int_linear(q, s, stored, scale, None, bias, dtype=dtype))


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_every_split_gives_the_same_sums(parts, monkeypatch):
    """Three parts of ten blocks leave a short one, eight leave three with nothing to add."""
    stored, prepared, scale = layer(20, 1200, 4)
    q, s = activations(3, 1200)
    tile, _ = tiles.choose(q.device, 3, 20, 1200)
    monkeypatch.setattr(tiles, "choose", lambda *sizes, **options: (tile, parts))
    bias = torch.randn(20)
    found = int_linear(q, s, prepared, scale, None, bias, dtype=torch.float32)
    assert torch.equal(found, reference.int_linear(q, s, stored, scale, None, bias, dtype=torch.float32))


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_sums_of_the_longest_rows_are_exact(bits, parts, monkeypatch):
    stored, prepared, _ = layer(2, 16384, bits)
    q, s = activations(2, 16384)
    tile, _ = tiles.choose(q.device, 2, 2, 16384)
    monkeypatch.setattr(tiles, "choose", lambda *sizes, **options: (tile, parts))
    found = int_linear(q, torch.ones_like(s), prepared, torch.ones(2, 1), dtype=torch.float32)
    assert found[0, 0] == 16384 * 128 * 2 ** (bits - 1)
    assert torch.equal(found, reference.integer_product(q, stored).float())


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_a_sum_that_fills_31_bits_is_exact(bits):
    channels = layout.CHANNELS
    q = torch.full((1, channels), -128, dtype=torch.int8)
    w = torch.full((1, channels), -(2 ** (bits - 1)), dtype=torch.int8)
    prepared = layout.prepare(pack_int4(w) if bits == 4 else w, bits, channels)
    found = int_linear(q, torch.ones(1, 1), prepared, torch.ones(1, 1), dtype=torch.float32)
    assert found.item() == torch.tensor(channels * 128 * 2 ** (bits - 1)).float().item()


@pytest.mark.parametrize("group_size", [None, 64])
def test_inputs_of_any_strides_give_the_same_result(group_size):
    stored, prepared, scale = layer(8, 256, 4, group_size)
    q, s = activations(6, 256)
    options = {"dtype": torch.float32, "group_size": group_size}
    expected = reference.int_linear(q, s, stored, scale, **options)
    wide = torch.zeros(6, 300, dtype=torch.int8)
    wide[:, 44:] = q
    for view in (q.T.contiguous().T, wide[:, 44:], torch.stack((q, q), 2)[..., 1]):
        assert torch.equal(int_linear(view, s, prepared, scale, **options), expected)
    same = int_linear(q[:1].expand(6, -1), s, prepared, scale, **options)
    assert torch.equal(same, reference.int_linear(q[:1].expand(6, -1), s, stored, scale, **options))
    turned = int_linear(q, s.expand(6, 2)[:, 1:], prepared, scale.T.contiguous().T, **options)
    assert torch.equal(turned, expected)


def test_a_row_may_begin_beyond_two_gigabytes():
    """Of the 2 GB, only the pages that hold rows are ever touched."""
    stored, prepared, scale = layer(4, 64, 4)
    rows, s = activations(3, 64)
    q = torch.empty((2 << 30) + 64, dtype=torch.int8).as_strided((3, 64), (1 << 30, 1))
    q.copy_(rows)
    found = int_linear(q, s, prepared, scale, dtype=torch.float32)
    assert torch.equal(found, reference.int_linear(rows, s, stored, scale, dtype=torch.float32))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_are_restored_before_the_bias(count, dtype):
    stored, prepared, scale = layer(48, 64, 4)
    q, s = activations(5, 64)
    blocks, bias = hadamard(16).repeat(count, 1, 1), torch.randn(48)
    found = int_linear(q, s, prepared, scale, blocks, bias, dtype=dtype)
    assert torch.equal(found, reference.int_linear(q, s, stored, scale, blocks, bias, dtype=dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("channels", [64, 1024])
def test_the_residual_is_added_to_the_rounded_product(channels, rotated, dtype):
    stored, prepared, scale = layer(48, channels, 4)
    q, s = activations(5, channels)
    blocks, residual = hadamard(16) if rotated else None, torch.randn(5, 48).mul(1000).to(dtype)
    found = int_linear(q, s, prepared, scale, blocks, dtype=dtype, residual=residual)
    assert torch.equal(found, residual + reference.int_linear(q, s, stored, scale, blocks, dtype=dtype))


@pytest.mark.parametrize(("tokens", "channels"), [(5, 64), (5, 1024), (80, 64)])
@pytest.mark.parametrize(("bits", "group_size"), [(4, None), (8, None), (4, 64)])
def test_gate_and_up_of_one_product_are_those_of_two(tokens, channels, bits, group_size):
    gate, up = (layer(23, channels, bits, group_size) for _ in range(2))
    q, s = activations(tokens, channels)
    s /= 50  # values of a few units, where GELU bends
    biases = torch.randn(23), torch.randn(23)
    options = {"dtype": torch.float32, "group_size": group_size}
    weight, scale, bias = (layout.interleave(*pair) for pair in ((gate[1], up[1]), (gate[2], up[2]), biases))
    found = gated_product(q, s, weight, scale, bias, **options)
    first, second = (
        reference.int_linear(q, s, stored, scale, None, bias, **options)
        for (stored, _, scale), bias in zip((gate, up), biases, strict=True)
    )
    expected = gelu(first.double(), approximate="tanh") * second
    assert torch.allclose(found.double(), expected, rtol=3e-5, atol=1e-6)


def test_a_row_without_a_finite_scale_is_nan_and_spoils_no_other():
    _, prepared, scale = layer(8, 64, 4)
    q, s = activations(3, 64)
    q[1], s[1] = 0, torch.nan
    found = int_linear(q, s, prepared, scale, dtype=torch.bfloat16)
    assert found[1].isnan().all()
    assert not found[[0, 2]].isnan().any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("m", "n", "k"), [*SHAPES, (3, 20, 1200), (80, 33, 1100)])
def test_sums_that_another_kernel_ends_are_exact(m, n, k, bits):
    stored, prepared, _ = layer(n, k, bits)
    q, _ = activations(m, k)
    sums = int_sums(q, prepared, n)
    _, split = tiles.choose(q.device, max(m, 1), n, k)
    assert sums.shape == (split if m else 1, m, n)
    assert torch.equal(sums.sum(0), reference.integer_product(q, stored).long())


def test_sums_of_the_longest_rows_are_exact():
    _, prepared, _ = layer(2, 16384, 4)
    q, _ = activations(2, 16384)
    sums = int_sums(torch.stack((q, q), 2)[..., 1], prepared, 2)
    assert len(sums) > 1
    assert sums.sum(0)[0, 0] == 16384 * 128 * 8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": torch.zeros(3, 64)}, r"q must be torch.int8 \[M, K\], not torch.float32"),
        ({"q": torch.zeros(3, 129, dtype=torch.int8)}, r"weight must be torch.uint8 \[8, 2, 1, 64\]"),
        ({"s": torch.ones(3)}, r"s must be torch.float32 \[3, 1\] on cpu, not torch.float32 \[3\]"),
        ({"weight": torch.zeros(8, 8, dtype=torch.int32)}, "a weight prepared for the triton engine is uint8"),
        ({"weight": torch.zeros(8, 64, dtype=torch.uint8)}, "a weight prepared for the triton engine is uint8"),
        ({"weight_scale": torch.ones(4, 1)}, r"weight_scale must be torch.float32 \[8, 1\]"),
        ({"weight_scale": torch.ones(8, 1, device="meta")}, "on cpu, not torch.float32 .* on meta"),
        ({"bias": torch.ones(8, dtype=torch.int32)}, "bias must be floating"),
        ({"bias": torch.ones(9)}, r"bias must be torch.float32 \[8\]"),
        ({"residual": torch.ones(3, 8, dtype=torch.float16)}, r"residual must be torch.float32 \[3, 8\]"),
        ({"group_size": 48}, "groups of 48 channels: the triton engine takes 32, 64, 128"),
        ({"dtype": torch.float64}, "a product in torch.float64"),
    ],
)
def test_what_no_kernel_may_read_is_refused(changed, message):
    _, prepared, scale = layer(8, 64, 4)
    q, s = activations(3, 64)
    given = {"q": q, "s": s, "weight": prepared, "weight_scale": scale, "dtype": torch.float32}
    with pytest.raises(InputError, match=message):
        int_linear(**given | changed)


def test_sums_for_other_outputs_than_the_weights_are_refused():
    _, prepared, _ = layer(8, 64, 4)
    with pytest.raises(InputError, match="outputs=9 of a weight with 8 rows"):
        int_sums(activations(3, 64)[0], prepared, 9)
