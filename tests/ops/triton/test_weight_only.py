"""Products of activations that are not rounded are as good as fp32's, whatever weights and channels."""

from __future__ import annotations

import pytest
import torch

from vlapack.errors import InputError
from vlapack.methods.rotate import hadamard
from vlapack.ops import reference
from vlapack.ops.int4 import pack_int4
from vlapack.ops.triton import layout, tiles
from vlapack.ops.triton.weight_only import float_linear

SHAPES = [(1, 1, 1), (0, 4, 16), (17, 33, 300), (3, 20, 512)]


def layer(n, k, bits, group_size=None):
    low = -(2 ** (bits - 1))
    w = torch.randint(low, -low, (n, k), dtype=torch.int8)
    w[0] = low
    stored = pack_int4(w) if bits == 4 else w
    scale = torch.rand(n, 1) if group_size is None else torch.rand(n, -(-k // group_size)).bfloat16()
    return w, layout.prepare(stored, bits, k), scale


def exactly(x, w, scale, group_size=None):
    """The product in float64, and the sum of its terms' magnitudes, which bounds what rounding may change."""
    steps = scale.double() if group_size is None else scale.double().repeat_interleave(group_size, 1)[:, : w.shape[1]]
    weights = w.double() * steps
    return x.double() @ weights.T, x.double().abs() @ weights.abs().T


@pytest.mark.parametrize("group_size", [None, 32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_fp32_results_err_by_roundings_of_fp32_only(m, n, k, bits, group_size):
    w, prepared, scale = layer(n, k, bits, group_size)
    x, bias = torch.randn(m, k), torch.randn(n)
    found = float_linear(x, prepared, scale, None, bias, dtype=torch.float32, group_size=group_size)
    expected, size = exactly(x, w, scale, group_size)
    assert found.shape == (m, n)
    assert ((found - (expected + bias)).abs() <= 2e-6 * (size + 1)).all()


def test_many_tokens_take_the_large_tiles():
    w, prepared, scale = layer(33, 136, 4)
    x = torch.randn(70, 136)
    expected, size = exactly(x, w, scale)
    assert ((float_linear(x, prepared, scale, dtype=torch.float32) - expected).abs() <= 2e-6 * size).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [100, 1024])
def test_narrow_results_err_by_little_more_than_their_own_rounding(dtype, channels):
    w, prepared, scale = layer(20, channels, 4)
    x = torch.randn(5, channels) / channels
    found = float_linear(x, prepared, scale, dtype=dtype)
    expected, size = exactly(x, w, scale)
    assert found.dtype == dtype
    assert ((found - expected).abs() <= torch.finfo(dtype).eps * expected.abs() + 1e-4 * size).all()


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_every_split_gives_the_same_product(parts, monkeypatch):
    w, prepared, scale = layer(20, 1200, 4)
    x = torch.randn(3, 1200)
    tile, _ = tiles.choose(x.device, 3, 20, 1200)
    monkeypatch.setattr(tiles, "choose", lambda *sizes, **options: (tile, parts))
    expected, size = exactly(x, w, scale)
    assert ((float_linear(x, prepared, scale, dtype=torch.float32) - expected).abs() <= 2e-6 * size).all()


def test_rows_are_restored_and_the_residual_comes_last():
    w, prepared, scale = layer(32, 64, 4)
    x, blocks, bias = torch.randn(3, 64), hadamard(16), torch.randn(32)
    residual = torch.randn(3, 32).bfloat16()
    stored = pack_int4(w)
    expected = reference.float_linear(x, stored, scale, blocks, bias, dtype=torch.float32)
    found = float_linear(x, prepared, scale, blocks, bias, dtype=torch.float32)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-4)
    plain = float_linear(x, prepared, scale, dtype=torch.bfloat16)
    assert torch.equal(float_linear(x, prepared, scale, dtype=torch.bfloat16, residual=residual), residual + plain)


def test_inputs_of_any_strides_give_the_same_result():
    _, prepared, scale = layer(8, 256, 4)
    x = torch.randn(6, 256)
    expected = float_linear(x, prepared, scale, dtype=torch.float32)
    for view in (x.T.contiguous().T, torch.stack((x, x), 2)[..., 1], torch.cat((x, x), 1)[:, 256:]):
        assert torch.equal(float_linear(view, prepared, scale, dtype=torch.float32), expected)


def test_a_token_that_is_not_finite_spoils_no_other():
    _, prepared, scale = layer(8, 64, 4)
    x = torch.randn(3, 64)
    x[1, 5] = torch.inf
    found = float_linear(x, prepared, scale, dtype=torch.float32)
    assert not found[1].isfinite().any()
    assert found[[0, 2]].isfinite().all()


def test_other_activations_are_refused():
    _, prepared, scale = layer(8, 64, 4)
    with pytest.raises(InputError, match=r"x must be torch.float32 \[M, K\], not torch.bfloat16 \[3, 64\]"):
        float_linear(torch.zeros(3, 64, dtype=torch.bfloat16), prepared, scale, dtype=torch.float32)
