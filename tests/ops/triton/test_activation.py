"""The activation step under Triton's interpreter gives the reference's integers."""

from __future__ import annotations

import pytest
import torch

from vlapack.errors import InputError
from vlapack.methods.rotate import hadamard
from vlapack.ops import reference
from vlapack.ops.triton import activation, known

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def rotations(k, block, count=1):
    return torch.linalg.qr(torch.randn(count if count == 1 else k // block, block, block))[0].contiguous()


def ugly(m, k):
    """Rows of zeros, of NaN, of infinity and of what vanishes among ordinary ones."""
    x = torch.randn(m, k) * 3
    for row, value in enumerate((0.0, torch.nan, torch.inf, 1e-45)):
        if row + 1 < m:
            x[row + 1] = 0.0
            x[row + 1, -1] = value
    return x


def assert_equal(found, expected):
    assert torch.equal(found[0], expected[0])
    assert found[1].shape == expected[1].shape
    assert torch.equal(found[1].nan_to_num(9), expected[1].nan_to_num(9))


def assert_near(x, smooth=None, permutation=None, rotation=None, **options):
    """The integers are the reference's, save by one where that is within 1e-3 of a half, for at most 1e-4 of them."""
    q, s = activation.quantize_activation(x, smooth, permutation, rotation, **options)
    expected, scale = reference.quantize_activation(x, smooth, permutation, rotation, **options)
    pre_rotation = options.get("pre_rotation")
    transformed = reference.transform_activation(x, smooth, permutation, rotation, pre_rotation)
    differs = (q.int() - expected.int()).abs()
    exact = transformed / scale
    assert differs.amax() <= 1
    assert differs.float().mean() <= 1e-4
    assert ((exact - exact.floor() - 0.5).abs()[differs > 0] < 1e-3).all()
    assert torch.allclose(s, scale, rtol=1e-6)
    found = activation.transform_activation(x, smooth, permutation, rotation, pre_rotation)
    assert torch.allclose(found, transformed, atol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (6, 33), (6, 4304)])
def test_steps_without_a_rotation_are_the_references_bit_for_bit(shape, dtype):
    x, k = ugly(*shape).to(dtype), shape[1]
    smooth, permutation = torch.rand(k) + 0.5, torch.randperm(k)
    orders = (None, permutation.to(torch.uint16), permutation.to(torch.int32), permutation)
    for order, factors, options in (
        (orders[0], None, {}),
        (orders[1], smooth, {"scale": torch.tensor([0.01])}),
        (orders[2], smooth, {}),
        (orders[3], None, {"bits": 4}),
    ):
        found = activation.quantize_activation(x, factors, order, **options)
        assert_equal(found, reference.quantize_activation(x, factors, order, **options))
    transformed = activation.transform_activation(x, smooth, permutation)
    expected = reference.transform_activation(x, smooth, permutation)
    assert torch.equal(transformed.nan_to_num(9), expected.nan_to_num(9))


def test_the_widest_rows_are_exact():
    x = torch.randn(2, 16384)
    assert_equal(activation.quantize_activation(x), reference.quantize_activation(x))


def test_every_quotient_is_rounded_correctly():
    """Neighbours in fp32 around each half: an approximate division or rounding puts some on the wrong side."""
    halves = torch.arange(-126.5, 127)
    x = torch.stack([halves * (1 + step * 2**-23) for step in (-2, -1, 0, 1, 2)]) * 0.3
    x = torch.cat((x, torch.full((5, 1), 127 * 0.3)), dim=1)
    assert_equal(activation.quantize_activation(x), reference.quantize_activation(x))


def test_halves_round_to_even():
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 127.0] * 5])
    assert activation.quantize_activation(x)[0].tolist() == [[0, 2, 2, 0, -2, -2, 127] * 5]


@pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")
@pytest.mark.parametrize("scale", [1e-30, 0.0, torch.nan, torch.inf])
def test_a_static_scale_out_of_range_clamps_as_the_reference_does(scale):
    x = ugly(6, 40)
    for bits in (4, 8):
        options = {"scale": torch.tensor([scale]), "bits": bits}
        found, expected = activation.quantize_activation(x, **options), reference.quantize_activation(x, **options)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1].flatten().nan_to_num(9), expected[1].expand(6, 1).flatten().nan_to_num(9))


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
def test_hadamard_blocks_take_sums_and_come_to_the_same(block):
    k = 1536
    x, permutation, smooth = torch.randn(3, k), torch.randperm(k).to(torch.uint16), torch.rand(k) + 0.5
    blocks = hadamard(block).float()
    assert known.is_hadamard(blocks)
    assert_near(x.bfloat16(), smooth, None, blocks)
    assert_near(x, None, permutation, blocks, pre_rotation=blocks, scale=torch.tensor([0.02]))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("k", "block"), [(64, 32), (80, 16), (9, 3), (8, 4), (80, 40)])
def test_dense_blocks_differ_only_where_the_reference_is_at_a_half(k, block, count):
    x, permutation, blocks = torch.randn(35, k), torch.randperm(k), rotations(k, block, count)
    assert_near(x.bfloat16(), torch.rand(k) + 0.5, permutation, blocks, bits=4)


def test_a_first_rotation_comes_before_the_permutation():
    x, permutation = torch.randn(5, 96), torch.randperm(96)
    assert_near(x, torch.rand(96) + 0.5, permutation, rotations(96, 16), pre_rotation=rotations(96, 32, 2))
    assert_near(x, None, permutation, hadamard(32).float(), pre_rotation=rotations(96, 16))
    assert_near(x, None, permutation, None, pre_rotation=hadamard(32).float())


def test_rows_that_are_not_finite_stay_so_through_a_rotation():
    x = ugly(6, 128)
    for blocks in (hadamard(64).float(), rotations(128, 64)):
        q, s = activation.quantize_activation(x, None, None, blocks)
        assert s.isnan().flatten().tolist() == [False, False, True, True, False, False]
        assert not q[1:5].any()


def test_what_is_almost_a_hadamard_block_is_multiplied_with():
    x, blocks = torch.randn(3, 128), hadamard(64).float()
    for row, column in ((0, 0), (16, 5), (63, 63)):
        almost = blocks.clone()
        almost[0, row, column] *= -1
        assert_near(x, None, None, almost)


def test_a_block_that_changes_in_place_is_looked_at_again():
    x, blocks = torch.randn(3, 64), hadamard(32).float()
    assert_near(x, None, None, blocks)
    blocks.copy_(rotations(64, 32))
    assert_near(x, None, None, blocks)


def test_known_tensors_are_read_once_and_forgotten_with_the_layer(monkeypatch):
    blocks = hadamard(64).float()
    known.learn(blocks, torch.arange(128), blocks)
    seen = len(known.is_hadamard._found)
    monkeypatch.setattr(known.is_hadamard, "_find", None)
    activation.quantize_activation(torch.randn(2, 128), None, None, blocks)
    del blocks
    assert len(known.is_hadamard._found) == seen - 1


def test_a_strided_input_is_read_where_it_lies():
    x = torch.randn(12, 3, 40)
    for view in (x[:, 1], x[::2, 0], x[0].T, x[:1, 2].expand(5, 40)):
        assert_equal(activation.quantize_activation(view), reference.quantize_activation(view.contiguous()))


def test_double_precision_is_taken_as_the_reference_takes_it():
    x = torch.randn(3, 24, dtype=torch.float64)
    assert_equal(activation.quantize_activation(x), reference.quantize_activation(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.zeros(2, 24, dtype=torch.int32)}, "floating matrix"),
        ({"x": torch.zeros(24)}, r"\[24\]"),
        ({"x": torch.zeros(2, 0)}, "rows of 0 channels"),
        ({"x": torch.zeros(2, 16385)}, "16385 channels: this engine takes 1 to 16384"),
        ({"smooth": torch.ones(23)}, r"smooth must be torch.float32 \[24\] on cpu"),
        ({"smooth": torch.ones(24, device="meta")}, r"not torch.float32 \[24\] on meta"),
        ({"permutation": torch.arange(24).to(torch.int16)}, "not torch.int16"),
        ({"permutation": torch.arange(1, 25)}, r"permutation\[23\] is 24: it must be from 0 to 23"),
        ({"permutation": torch.arange(-1, 23)}, r"permutation\[0\] is -1"),
        ({"rotation": torch.zeros(1, 5, 5)}, "B dividing K"),
        ({"rotation": torch.zeros(2, 8, 8)}, r"rotation must be torch.float32 \[3, 8, 8\]"),
        ({"pre_rotation": torch.zeros(1, 8, 8).double()}, "pre_rotation must be torch.float32"),
        ({"scale": torch.ones(2)}, r"scale must be torch.float32 \[1\]"),
    ],
)
def test_a_step_of_what_does_not_fit_is_refused_with_the_numbers(change, said):
    with pytest.raises(InputError, match=said):
        activation.quantize_activation(**{"x": torch.zeros(2, 24), **change})
