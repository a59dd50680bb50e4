"""A layer that is laid out for GPUs has the dequantized one's derivative, of any shape and however it is split."""

from __future__ import annotations

import pytest
import torch
from dequantized import Dequantized

from vlapack.errors import InputError
from vlapack.linear import PackedLinear
from vlapack.ops import layouts, reference, step_gradient
from vlapack.ops.int4 import pack_int4
from vlapack.ops.triton import layout, tiles
from vlapack.ops.triton.gradient import linear_gradient

NEAR = 1e-5
"""Of the norm: gradients are multiplied as 16 bits each."""


@pytest.fixture(autouse=True)
def _triton(monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "triton")
    torch.manual_seed(0)


def orthogonal(count, size):
    return torch.linalg.qr(torch.randn(count, size, size))[0].contiguous()


def stored(n, k, bits, group_size=None):
    low = -(2 ** (bits - 1))
    w = torch.randint(low, -low, (n, k), dtype=torch.int8)
    scale = torch.rand(n, 1) if group_size is None else torch.rand(n, -(-k // group_size)).bfloat16()
    return (pack_int4(w) if bits == 4 else w), scale


def far(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize("group_size", [None, 32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (0, 4, 16), (17, 33, 300), (3, 70, 136), (70, 20, 129)])
def test_ugly_shapes(m, n, k, bits, group_size):
    weight, scale = stored(n, k, bits, group_size)
    way = torch.randn(m, n)
    found = linear_gradient(way, layout.prepare(weight, bits, k), scale, inputs=k, group_size=group_size)
    expected = reference.linear_gradient(way.double(), weight, scale, inputs=k, group_size=group_size)
    assert (found.shape, found.dtype) == ((m, k), torch.float32)
    assert far(found, expected) <= NEAR


@pytest.mark.parametrize("parts", [1, 2, 3, 16])
def test_every_split_of_the_outputs_gives_the_same_product(parts, monkeypatch):
    weight, scale = stored(100, 72, 4)
    way, prepared = torch.randn(5, 100), layout.prepare(weight, 4, 72)
    tile, _ = tiles.choose_backward(way.device, 5, 100, 72)
    monkeypatch.setattr(tiles, "choose_backward", lambda *sizes: (tile, parts))
    found = linear_gradient(way, prepared, scale, inputs=72)
    assert far(found, reference.linear_gradient(way, weight, scale, inputs=72)) <= NEAR


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_gradients_of_any_dtype_and_strides(dtype):
    weight, scale = stored(24, 40, 4)
    prepared, way = layout.prepare(weight, 4, 40), torch.randn(6, 24).to(dtype)
    expected = linear_gradient(way.float(), prepared, scale, inputs=40)
    for view in (way, way.T.contiguous().T, torch.cat((way, way), 1)[:, 24:]):
        assert torch.equal(linear_gradient(view, prepared, scale, inputs=40), expected)


def test_small_and_large_gradients_keep_their_digits():
    weight, scale = stored(40, 64, 4)
    way = torch.randn(3, 40) * torch.tensor([[1e-30], [1.0], [1e30]])
    found = linear_gradient(way, layout.prepare(weight, 4, 64), scale, inputs=64)
    expected = reference.linear_gradient(way, weight, scale, inputs=64)
    assert all(far(*rows) <= NEAR for rows in zip(found, expected, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize(("act_bits", "static"), [(8, None), (8, 0.01), (4, 0.1), (16, None)])
@pytest.mark.parametrize("shared", [True, False])
def test_a_whole_layer_has_the_dequantized_ones_derivative(act_bits, static, group_size, shared, bits):
    n, k = 33, 72
    weight, scale = stored(n, k, bits, group_size)
    tensors = {
        **({"weight_packed": weight, "weight_shape": torch.tensor([n, k])} if bits == 4 else {"weight": weight}),
        "weight_scale": scale,
        "smooth": torch.rand(k) + 0.5,
        "pre_rotation": orthogonal(1 if shared else k // 8, 8),
        "permutation": torch.randperm(k).to(torch.uint16),
        "rotation": orthogonal(1 if shared else k // 8, 8),
        "row_rotation": orthogonal(1 if shared else n // 11, 11),
    }
    if static is not None:
        tensors["input_scale"] = torch.tensor([static])
    act_scale = "per_token" if static is None else "static"
    packed = PackedLinear.from_tensors(
        tensors, weight_bits=bits, group_size=group_size, act_bits=act_bits, act_scale=act_scale
    )
    assert layouts.engine_of(packed.weight_prepared) == "triton"
    x, way = torch.randn(5, k), torch.randn(5, n)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    (found,) = torch.autograd.grad(packed(ours), ours, way)
    (expected,) = torch.autograd.grad(Dequantized(packed)(theirs), theirs, way.double())
    assert far(found, expected) <= NEAR


def test_a_steps_transpose_is_made_once_and_forgotten_with_the_layer():
    blocks, order = orthogonal(1, 8), torch.randperm(16).to(torch.uint16)
    first = step_gradient.transpose_of(blocks), step_gradient.inverse_of(order)
    assert all(map(torch.equal, first, (blocks[0].T[None], order.to(torch.int64).argsort())))
    assert first[0] is step_gradient.transpose_of(blocks)
    assert first[1] is step_gradient.inverse_of(order)
    blocks.mul_(2)
    assert torch.equal(step_gradient.transpose_of(blocks), 2 * first[0])


def test_what_does_not_fit_is_refused():
    weight, scale = stored(8, 64, 4)
    prepared, way = layout.prepare(weight, 4, 64), torch.zeros(3, 8)
    with pytest.raises(InputError, match=r"gradient must be floating \[M, 8\] on cpu, not torch.float32 \[3, 9\]"):
        linear_gradient(torch.zeros(3, 9), prepared, scale, inputs=64)
    with pytest.raises(InputError, match=r"weight must be torch.uint8 \[8, 2, 1, 64\]"):
        linear_gradient(way, prepared, scale, inputs=200)
    with pytest.raises(InputError, match=r"weight_scale must be torch.float32 \[8, 1\]"):
        linear_gradient(way, prepared, scale.bfloat16(), inputs=64)
    with pytest.raises(InputError, match="groups of 16 channels"):
        linear_gradient(way, prepared, scale, inputs=64, group_size=16)


def test_a_card_gets_parts_for_all_its_processors(monkeypatch):
    monkeypatch.setattr(tiles, "of", lambda device: tiles.TILES["sm_90"])
    monkeypatch.setattr(tiles, "processors", lambda device: 132)
    card = torch.device("cuda", 0)
    tile, parts = tiles.choose_backward(card, 10, 4096, 1024)
    assert tile.tokens == 16
    assert tiles.backward_programs(tile, 10, 1024) * parts >= 132
    assert tiles.choose_backward(card, 10, 1024, 4096)[1] == 4
    assert tiles.choose_backward(card, 10, 64, 4096)[1] == 1
