"""The reference defines the ops, so it is compared with numpy's integers and float32, never with itself."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from vlapack.methods.rotate import hadamard, row_rotation
from vlapack.ops import reference
from vlapack.ops.int4 import pack_int4
from vlapack.ops.reference import float_linear, int_linear, integer_product, quantize_activation

SHAPES = [(1, 1, 1), (3, 5, 7), (0, 4, 16), (2, 1, 33), (17, 33, 4304), (1, 3, 1025)]


def stored(w, bits):
    return pack_int4(w) if bits == 4 else w


def random_integers(m, n, k, bits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=generator)
    w = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k), dtype=torch.int8, generator=generator)
    return q, w


def exact(q, w):
    return q.numpy().astype(np.int64) @ w.numpy().astype(np.int64).T


@contextlib.contextmanager
def rounding_allowed(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_integer_product_is_int64s(shape, bits):
    q, w = random_integers(*shape, bits)
    assert np.array_equal(integer_product(q, stored(w, bits)).numpy(), exact(q, w))


@pytest.mark.parametrize(
    ("bits", "k", "dtype"),
    [(4, 16384, torch.float32), (4, 16385, torch.float64), (8, 1024, torch.float32), (8, 1025, torch.float64)],
)
def test_sums_at_the_edge_of_fp32_are_exact(bits, k, dtype):
    lowest = -(2 ** (bits - 1))
    q = torch.full((2, k), -128, dtype=torch.int8)
    w = torch.full((2, k), lowest, dtype=torch.int8)
    q[1, 0], w[1, 0] = -127, lowest + 1  # an odd sum just below 2^24: fp32 has no bit to spare
    product = integer_product(q, stored(w, bits))
    assert product.dtype == dtype
    assert np.array_equal(product.numpy(), exact(q, w))


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize(("bits", "k"), [(4, 16384), (8, 1024), (8, 3000)])
def test_integer_product_ignores_matmul_precision_and_autocast(precision, bits, k):
    q, w = random_integers(64, 40, k, bits)
    with rounding_allowed(precision):
        product = integer_product(q, stored(w, bits))
    assert np.array_equal(product.numpy(), exact(q, w))


def test_the_product_does_not_depend_on_how_many_weights_are_unpacked_at_once(monkeypatch):
    q, w = random_integers(3, 29, 40, 4)
    monkeypatch.setattr(reference, "WEIGHTS_AT_ONCE", 100)
    assert np.array_equal(integer_product(q, pack_int4(w)).numpy(), exact(q, w))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (5, 33), (64, 4304)])
def test_per_token_step_is_numpys(shape, dtype):
    x = (torch.randn(shape) * 3).to(dtype)
    if shape[0] > 1:
        x[1] = 0
    q, s = quantize_activation(x)
    wide = x.float().numpy()
    peak = np.abs(wide).max(-1, keepdims=True)
    expected = np.where(peak == 0, np.float32(1), peak / np.float32(127))
    assert expected.dtype == np.float32
    assert np.array_equal(s.numpy(), expected)
    assert np.array_equal(q.numpy(), np.rint(wide / expected))


def test_a_half_rounds_to_the_even_integer():
    q, _ = quantize_activation(torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 127.0]]))
    assert q.tolist() == [[0, 2, 2, 0, -2, -2, 127]]


def test_a_static_scale_clamps_symmetrically_and_is_given_to_every_row():
    x = torch.tensor([[1.0, -300.0], [0.0, 0.0], [63.4, 300.0]])
    q, s = quantize_activation(x, scale=torch.tensor([0.5]))
    assert q.tolist() == [[2, -127], [0, 0], [127, 127]]
    assert s.tolist() == [[0.5], [0.5], [0.5]]


@pytest.mark.parametrize("scale", [None, torch.tensor([0.1])])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_reaches_the_output_and_only_of_its_row(bad, scale):
    x = torch.tensor([[1.0, bad, 2.0], [1.0, 2.0, 3.0]])
    q, s = quantize_activation(x, scale=scale)
    y = int_linear(q, s, torch.ones(2, 3, dtype=torch.int8), torch.ones(2, 1), dtype=torch.float32)
    assert q[0].tolist() == [0, 0, 0]
    assert y[0].isnan().all()
    assert y[1].isfinite().all()


def test_a_vanishing_row_is_zero_and_not_nan():
    q, s = quantize_activation(torch.tensor([[1e-45, 0.0]]))
    assert (q.tolist(), s.tolist()) == ([[0, 0]], [[1.0]])


def test_transform_steps_come_in_order_before_rounding():
    x, smooth = torch.randn(6, 16), torch.rand(16) + 0.5
    permutation, rotation = torch.randperm(16), hadamard(8)
    q, s = quantize_activation(x, smooth, permutation.to(torch.uint16), rotation.float())
    by_hand = (x / smooth)[:, permutation].double() @ torch.block_diag(rotation[0], rotation[0]).float().double()
    expected, scale = quantize_activation(by_hand.float())
    assert torch.equal(s, scale)
    assert torch.equal(q, expected)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_a_rotated_step_ignores_matmul_precision_and_autocast(precision):
    x, rotation = torch.randn(64, 256), hadamard(64).float()
    expected = quantize_activation(x, rotation=rotation)
    with rounding_allowed(precision):
        found = quantize_activation(x, rotation=rotation)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("m", "n", "k"), [(3, 32, 33), (0, 32, 8), (1, 32, 4304)])
def test_int_linear_scales_restores_rows_and_adds_the_bias_last(m, n, k, bits):
    q, w = random_integers(m, n, k, bits)
    s, weight_scale, bias = torch.rand(m, 1), torch.rand(n, 1), torch.randn(n)
    blocks = row_rotation(torch.randn(n, k), 16, "svd").float()
    y = int_linear(q, s, stored(w, bits), weight_scale, blocks, bias, dtype=torch.float32)
    product = exact(q, w) * s.double().numpy() * weight_scale.double().numpy().T
    expected = product @ torch.block_diag(*blocks.double()).numpy().T + bias.double().numpy()
    assert y.shape == (m, n)
    assert np.allclose(y.numpy(), expected, rtol=1e-5, atol=1e-5 * max(np.abs(product).max(initial=0), 1))


@pytest.mark.parametrize("bits", [4, 8])
def test_float_linear_is_the_dequantized_product(bits):
    _, w = random_integers(1, 20, 33, bits)
    x, weight_scale, bias = torch.randn(6, 33), torch.rand(20, 1), torch.randn(20)
    y = float_linear(x, stored(w, bits), weight_scale, None, bias, dtype=torch.float32)
    expected = torch.nn.functional.linear(x, w * weight_scale, bias)
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("m", "n", "k", "group_size"), [(3, 5, 33, 32), (0, 4, 64, 32), (2, 1, 4304, 128), (1, 3, 7, 64)]
)
def test_grouped_sums_are_exact_and_added_in_fp32_in_order(m, n, k, group_size, bits):
    q, w = random_integers(m, n, k, bits)
    s, scale = torch.rand(m, 1), torch.rand(n, -(-k // group_size)).bfloat16()
    y = int_linear(q, s, stored(w, bits), scale, dtype=torch.float32, group_size=group_size)
    expected = np.zeros((m, n), np.float32)
    for g, start in enumerate(range(0, k, group_size)):
        part = slice(start, start + group_size)
        expected += exact(q[:, part], w[:, part]).astype(np.float32) * scale[:, g].float().numpy()
    assert np.array_equal(y.numpy(), expected * s.numpy())


def test_grouped_float_linear_is_the_dequantized_product(monkeypatch):
    monkeypatch.setattr(reference, "WEIGHTS_AT_ONCE", 200)
    _, w = random_integers(1, 20, 70, 4)
    x, scale, bias = torch.randn(6, 70), torch.rand(20, 3).bfloat16(), torch.randn(20)
    y = float_linear(x, stored(w, 4), scale, None, bias, dtype=torch.float32, group_size=32)
    wide = w * scale.float().repeat_interleave(32, 1)[:, :70]
    assert torch.allclose(y, torch.nn.functional.linear(x, wide, bias), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scale", [None, torch.tensor([0.5])])
def test_four_bit_activations_are_numpys_and_stay_within_seven(scale):
    x = torch.randn(5, 33) * 4
    x[1] = 0
    q, s = quantize_activation(x, scale=scale, bits=4)
    peak = np.abs(x.numpy()).max(-1, keepdims=True)
    step = (
        np.where(peak == 0, np.float32(1), peak / np.float32(7)) if scale is None else np.full((5, 1), np.float32(0.5))
    )
    assert np.array_equal(s.numpy(), step)
    assert np.array_equal(q.numpy(), np.clip(np.rint(x.numpy() / step), -7, 7))
