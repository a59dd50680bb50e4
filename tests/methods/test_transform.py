"""A transform must leave the product as it is, in float64, whatever its steps; and survive its trip through a pack."""

from __future__ import annotations

import itertools

import pytest
import torch

from vlapack.methods import transform
from vlapack.methods.permute import zigzag
from vlapack.methods.rotate import restore_rows, rotate_rows, rotation, row_rotation
from vlapack.methods.smooth import smoothing_scale
from vlapack.methods.transform import Transform, rotate_blocks

ROTATIONS = ("none", "hadamard", "svd", "svd_hadamard")


def build(weight, x, *, lam, permute, kind, block, shared):
    """The walk's order: each step is made for the weight as the steps before it left it."""
    absmax = x.abs().amax(0)
    scale = smoothing_scale(absmax, weight.abs().amax(0), lam)
    permutation = zigzag(absmax if scale is None else absmax / scale, block) if permute else None
    before = Transform(scale, permutation)
    return Transform(scale, permutation, rotation(kind, before.weight(weight), block, shared=shared))


@pytest.mark.parametrize("steps", [*itertools.product((False, True), repeat=4)])
@pytest.mark.parametrize(("channels", "block", "count"), [(24, 8, 1), (24, 8, 3), (4304, 16, 269), (5, 1, 5)])
def test_every_combination_of_steps_is_their_plain_product_and_keeps_the_result(steps, channels, block, count):
    """Against a dense K x K matrix put together in numpy-like plain products, smooth first, R2 last."""
    generator = torch.Generator().manual_seed(1)
    smooths, rotates_first, permutes, rotates = steps
    scale = torch.rand(channels, dtype=torch.float64, generator=generator) + 0.1
    order = torch.randperm(channels, generator=generator)
    random = torch.randn(2, count, block, block, dtype=torch.float64, generator=generator)
    first, second = torch.linalg.qr(random).Q
    made = Transform(
        scale if smooths else None,
        order if permutes else None,
        second if rotates else None,
        first if rotates_first else None,
    )
    x = torch.randn(3, channels, dtype=torch.float64, generator=generator)
    weight = torch.randn(2, channels, dtype=torch.float64, generator=generator)
    expected = x / scale if smooths else x
    expected = expected @ torch.block_diag(*first.expand(channels // block, -1, -1)) if rotates_first else expected
    expected = expected[:, order] if permutes else expected
    expected = expected @ torch.block_diag(*second.expand(channels // block, -1, -1)) if rotates else expected
    assert torch.allclose(made.inputs(x), expected, rtol=0, atol=1e-10)
    product = x @ weight.T
    assert torch.allclose(
        made.inputs(x) @ made.weight(weight).T, product, rtol=0, atol=1e-10 * float(product.abs().max())
    )
    assert torch.allclose(made.restored(made.inputs(x)), x, rtol=0, atol=1e-10)
    assert torch.allclose(made.restored_weight(made.weight(weight)), weight, rtol=0, atol=1e-10)
    kept = Transform.from_tensors(made.tensors())
    assert (kept.pre_rotation is None) == (not rotates_first)


@pytest.mark.parametrize(("kind", "shared"), [*itertools.product(ROTATIONS, (True, False))])
@pytest.mark.parametrize(("channels", "block"), [(192, 64), (4304, 16), (24, 8)])
def test_every_builder_keeps_the_product_to_1e_10(kind, shared, channels, block):
    generator = torch.Generator().manual_seed(channels)
    weight = torch.randn(33, channels, dtype=torch.float64, generator=generator)
    x = torch.randn(7, channels, dtype=torch.float64, generator=generator) * torch.logspace(-3, 3, channels)
    expected = x @ weight.T
    for lam, permute in itertools.product((0.0, 0.15), (False, True)):
        made = build(weight, x, lam=lam, permute=permute, kind=kind, block=block, shared=shared)
        error = made.inputs(x) @ made.weight(weight).T - expected
        assert error.abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("kind", ROTATIONS)
def test_rotated_rows_are_restored_to_1e_10(kind):
    weight, x = torch.randn(48, 21, dtype=torch.float64), torch.randn(3, 5, 21, dtype=torch.float64)
    blocks = row_rotation(weight, 16, kind)
    y = x @ rotate_rows(weight, blocks).T
    assert torch.allclose(restore_rows(y, blocks), x @ weight.T, rtol=0, atol=1e-10)


def test_row_rotation_of_svd_is_the_left_singular_vectors():
    weight = torch.randn(32, 50, dtype=torch.float64)
    blocks = row_rotation(weight, 16, "svd")
    for i, u in enumerate(blocks):
        expected = torch.linalg.svd(weight[16 * i : 16 * (i + 1)]).U
        assert torch.allclose((u.T @ expected).abs(), torch.eye(16, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("leading", [(), (0,), (1,), (2, 3)])
@pytest.mark.parametrize("count", [1, 3])
def test_rotating_blocks_is_the_product_by_a_block_diagonal_matrix(leading, count):
    blocks = torch.randn(count, 4, 4, dtype=torch.float64)
    x = torch.randn(*leading, 12, dtype=torch.float64)
    full = torch.block_diag(*(blocks.expand(3, 4, 4)))
    assert torch.allclose(rotate_blocks(x, blocks), x @ full)


def test_a_rotation_is_not_rounded_by_the_process_wide_switches():
    x, blocks = torch.randn(64, 128), torch.randn(1, 64, 64)
    expected = rotate_blocks(x, blocks)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(rotate_blocks(x, blocks), expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_stored_tensors_are_small_and_read_back_exactly():
    made = Transform(torch.rand(12), torch.randperm(12), torch.randn(1, 4, 4))
    stored = made.tensors()
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "smooth": torch.float32,
        "permutation": torch.uint16,
        "rotation": torch.float32,
    }
    back = Transform.from_tensors({**stored, "weight_scale": torch.ones(1, 1)})
    x = torch.randn(5, 12)
    assert torch.equal(back.inputs(x), made.inputs(x))
    assert Transform().tensors() == {}


@pytest.mark.parametrize(("channels", "dtype"), [(65536, torch.uint16), (65537, torch.int32)])
def test_the_last_channel_of_a_wide_layer_fits_its_stored_permutation(channels, dtype):
    permutation = torch.arange(channels).flip(0)
    stored = Transform(permutation=permutation).tensors()
    assert stored["permutation"].dtype == dtype
    assert torch.equal(Transform.from_tensors(stored).permutation, permutation)


@pytest.mark.parametrize("count", [1, 3])
def test_the_rotation_does_not_depend_on_how_many_rows_are_turned_at_once(monkeypatch, count):
    x, blocks = torch.randn(11, 12), torch.randn(count, 4, 4)
    whole = rotate_blocks(x, blocks)
    monkeypatch.setattr(transform, "ELEMENTS_AT_ONCE", 30)
    assert torch.allclose(rotate_blocks(x, blocks), whole, rtol=0, atol=1e-6)
