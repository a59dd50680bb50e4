"""Every instruction set of this CPU computes the reference's integers and, without rotations, its very bits."""

from __future__ import annotations

import pytest
import torch
from extras import needs

from vlapack.errors import InputError
from vlapack.linear import PackedLinear
from vlapack.methods.rotate import hadamard
from vlapack.ops import cpu, engine, library, reference
from vlapack.ops.int4 import pack_int4

needs("vlapack._kernels", remedy="install vlapack where there is a C++17 compiler")

ISAS = engine.kernels.available()
SHAPES = [
    (1, 1, 1),
    (3, 5, 7),
    (0, 4, 16),
    (2, 1, 33),
    (17, 33, 4304),
    (1, 3, 1025),
    (13, 64, 256),
    (50, 100, 72),
    (97, 65, 2312),
]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=ISAS, autouse=True)
def isa(request, monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "cpu")
    engine.active()
    before = engine.kernels.isa()
    engine.kernels.choose(request.param)
    yield request.param
    engine.kernels.choose(before)


def layer(n, k, bits, group_size=None):
    """Weight as stored and as prepared, and scales; the first row and everything it meets is as low as can be."""
    low = -(2 ** (bits - 1))
    w = torch.randint(low, -low, (n, k), dtype=torch.int8)
    w[0] = low
    stored = pack_int4(w) if bits == 4 else w
    scale = torch.rand(n, 1) if group_size is None else torch.rand(n, -(-k // group_size)).bfloat16()
    return stored, cpu.prepare(stored, bits, k), scale


def activations(m, k):
    q = torch.randint(-128, 128, (m, k), dtype=torch.int8)
    q[:1] = -128
    return q, torch.rand(m, 1)


def rotations(k, block, count=1):
    return torch.linalg.qr(torch.randn(count if count == 1 else k // block, block, block))[0].contiguous()


@pytest.mark.parametrize("group_size", [None, 32, 64])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_are_the_references_bit_for_bit(m, n, k, bits, group_size):
    stored, prepared, scale = layer(n, k, bits, group_size)
    q, s = activations(m, k)
    for bias in (None, torch.randn(n)):
        for dtype in FLOATS:
            found = cpu.int_linear(q, s, prepared, scale, None, bias, dtype=dtype, group_size=group_size)
            expected = reference.int_linear(q, s, stored, scale, None, bias, dtype=dtype, group_size=group_size)
            assert torch.equal(found, expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_saturating_sums_of_the_longest_rows_are_exact(bits):
    stored, prepared, _ = layer(2, 16384, bits)
    q, s = activations(2, 16384)
    found = cpu.int_linear(q, torch.ones_like(s), prepared, torch.ones(2, 1), dtype=torch.float32)
    assert found[0, 0] == 16384 * 128 * 2 ** (bits - 1)
    assert torch.equal(found, reference.integer_product(q, stored).float())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("s", [1e-40, 1e-44, 1e36, torch.inf, torch.nan])
def test_results_at_the_edges_of_floats_are_the_references(s, dtype):
    stored, prepared, scale = layer(40, 72, 4)
    q, scales = activations(20, 72)
    scales[3] = scales[17] = s
    found = cpu.int_linear(q, scales, prepared, scale, dtype=dtype)
    expected = reference.int_linear(q, scales, stored, scale, dtype=dtype)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (31, 7), (33, 8), (64, 4304)])
def test_the_layout_loses_nothing(shape, bits):
    stored, prepared, _ = layer(*shape, bits)
    assert prepared.shape == (-(-shape[0] // 32), -(-shape[1] // 8), 32 * bits)
    assert torch.equal(cpu.restore(prepared, *shape), stored)


@pytest.mark.parametrize("count", [1, 3])
def test_rows_are_restored_before_the_bias(count):
    stored, prepared, scale = layer(48, 64, 4)
    q, s = activations(9, 64)
    blocks, bias = rotations(48, 16, count), torch.randn(48)
    found = cpu.int_linear(q, s, prepared, scale, blocks, bias, dtype=torch.float32)
    expected = reference.int_linear(q, s, stored, scale, blocks, bias, dtype=torch.float32)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def ugly(m, k):
    """Rows of zeros, of NaN, of infinity and of what vanishes among ordinary ones."""
    x = torch.randn(m, k) * 3
    for row, value in enumerate((0.0, torch.nan, torch.inf, 1e-45)):
        if row + 1 < m:
            x[row + 1] = 0.0
            x[row + 1, -1] = value
    return x


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (5, 33), (64, 4304), (13, 128)])
def test_steps_without_a_rotation_are_the_references_bit_for_bit(shape, dtype):
    x, k = ugly(*shape).to(dtype), shape[1]
    smooth, permutation = torch.rand(k) + 0.5, torch.randperm(k)
    for order in (None, permutation.to(torch.uint16), permutation.to(torch.int32), permutation):
        for factors in (None, smooth):
            for options in ({}, {"scale": torch.tensor([0.01])}, {"bits": 4}):
                found = cpu.quantize_activation(x, factors, order, **options)
                expected = reference.quantize_activation(x, factors, order, **options)
                assert torch.equal(found[0], expected[0])
                assert torch.equal(found[1].nan_to_num(9), expected[1].nan_to_num(9))
            transformed = cpu.transform_activation(x, factors, order)
            assert torch.equal(
                transformed.nan_to_num(9), reference.transform_activation(x, factors, order).nan_to_num(9)
            )


def test_halves_round_to_even():
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 127.0] * 5])
    assert cpu.quantize_activation(x)[0].tolist() == [[0, 2, 2, 0, -2, -2, 127] * 5]


def assert_near(x, *steps, pre_rotation=None):
    """The integers are the reference's, save by one where that is within 1e-3 of a half, for at most 1e-4 of them."""
    q, s = cpu.quantize_activation(x, *steps, pre_rotation=pre_rotation)
    expected, scale = reference.quantize_activation(x, *steps, pre_rotation=pre_rotation)
    differs = (q.int() - expected.int()).abs()
    transformed = reference.transform_activation(x, *steps, pre_rotation)
    exact = transformed / scale
    assert differs.amax() <= 1
    assert differs.float().mean() <= 1e-4
    assert ((exact - exact.floor() - 0.5).abs()[differs > 0] < 1e-3).all()
    assert torch.allclose(s, scale, rtol=1e-6)
    assert torch.allclose(cpu.transform_activation(x, *steps, pre_rotation), transformed, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("k", "block"), [(2048, 64), (1024, 256), (4304, 16), (96, 3), (64, 4)])
def test_rotated_steps_differ_only_where_the_reference_is_at_a_half(k, block, count):
    x, permutation = torch.randn(40, k), torch.randperm(k).to(torch.uint16)
    for first in (None, rotations(k, block, count)):
        assert_near(x, None, permutation, rotations(k, block, count), pre_rotation=first)


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
def test_hadamard_blocks_take_sums_and_come_to_the_same(block):
    k = 1536
    x, permutation, smooth = torch.randn(40, k), torch.randperm(k).to(torch.uint16), torch.rand(k) + 0.5
    blocks = hadamard(block).float()
    for order in (None, permutation):
        assert_near(x.bfloat16(), smooth, order, blocks)
        assert_near(x, None, order, blocks, pre_rotation=blocks)
        assert_near(x, None, order, blocks, pre_rotation=rotations(k, 64))


def test_what_is_almost_a_hadamard_block_is_multiplied_with():
    x, blocks = torch.randn(40, 256), hadamard(64).float()
    for row, column in ((0, 0), (0, 1), (16, 5), (63, 63), (7, 0)):
        almost = blocks.clone()
        almost[0, row, column] *= -1
        assert_near(x, None, None, almost)


def test_a_strided_input_is_read_where_it_lies():
    x = torch.randn(12, 3, 40)
    for view in (x[:, 1], x[::2, 0], x[0].T):
        found, expected = cpu.quantize_activation(view), reference.quantize_activation(view.contiguous())
        assert torch.equal(found[0], expected[0])


def test_starts_and_meetings_of_threads_are_counted_and_one_thread_alone_is_not():
    before = engine.kernels.waits()
    engine.kernels.meet(1, 7)
    assert engine.kernels.waits() == before
    engine.kernels.meet(2, 7)
    assert engine.kernels.waits() == (before[0] + 1, before[1] + 7)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_threads(threads):
    _, prepared, scale = layer(200, 512, 4)
    q, s = activations(70, 512)
    expected = cpu.int_linear(q, s, prepared, scale, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(cpu.int_linear(q, s, prepared, scale, dtype=torch.float32), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_prepared_layer_passes_opcheck_and_lets_go_of_the_original(bits):
    stored, prepared, scale = layer(40, 24, bits)
    q, s = activations(5, 24)
    torch.library.opcheck(library.int_linear, (q, s, prepared, scale), {"dtype": torch.bfloat16})
    tensors = {"weight": stored, "weight_packed": stored, "weight_shape": torch.tensor([40, 24]), "weight_scale": scale}
    del tensors["weight" if bits == 4 else "weight_packed"]
    packed = PackedLinear.from_tensors(tensors, weight_bits=bits)
    assert {name for name, _ in packed.named_buffers()} == {"weight_prepared", "weight_scale"}
    x = torch.randn(5, 24)
    expected = library.int_linear(*reference.quantize_activation(x), stored, scale, dtype=torch.float32)
    assert torch.equal(packed(x), expected)


GOOD = {"q": torch.zeros(3, 24, dtype=torch.int8), "s": torch.ones(3, 1), "weight_scale": torch.ones(40, 1)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"q": torch.zeros(3, 24, dtype=torch.uint8)}, r"q must be torch.int8 \[3, 24\] on cpu, not torch.uint8"),
        ({"q": torch.zeros(3, 32, dtype=torch.int8)}, r"weight must be torch.uint8 \[2, 4, 128\]"),
        ({"s": torch.ones(2, 1)}, r"s must be torch.float32 \[3, 1\] on cpu, not torch.float32 \[2, 1\]"),
        ({"s": torch.ones(3, 1, device="meta")}, "on meta"),
        ({"weight_scale": torch.ones(40, 1).double()}, "weight_scale must be torch.float32"),
        ({"weight_scale": torch.ones(80, 1)}, r"weight must be torch.uint8 \[3, 3, 128\]"),
        ({"weight": torch.zeros(7, dtype=torch.uint8)}, r"not \[7\]"),
        ({"bias": torch.zeros(39)}, r"bias must be torch.float32 \[40\]"),
        ({"row_rotation": torch.zeros(1, 3, 3)}, r"rotation \[1, 3, 3\] of 40 channels"),
        ({"group_size": 12}, "groups of 12 channels"),
    ],
)
def test_a_product_of_what_does_not_fit_is_refused_with_the_numbers(change, said):
    arguments = GOOD | {"weight": layer(40, 24, 4)[1], "dtype": torch.float32} | change
    with pytest.raises(InputError, match=said):
        cpu.int_linear(**arguments)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.zeros(2, 24, dtype=torch.int32)}, "floating matrix"),
        ({"x": torch.zeros(24)}, r"\[24\]"),
        ({"smooth": torch.ones(23)}, r"smooth must be torch.float32 \[24\]"),
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
    with pytest.raises(ValueError, match=said):
        cpu.quantize_activation(**{"x": torch.zeros(2, 24), **change})


def test_eight_bit_rows_too_long_for_the_sums_are_refused():
    with pytest.raises(InputError, match="131072 input channels"):
        cpu.prepare(torch.zeros(1, 131072, dtype=torch.int8), 8, 131072)
