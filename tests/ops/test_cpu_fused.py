"""The CPU engine's fused ops against their definition: the stream is equal, what is rounded to integers nearly so."""

from __future__ import annotations

import pytest
import torch
from extras import needs
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.rotate import hadamard
from vlapack.ops import attention_reference, cpu_fused, engine
from vlapack.ops import fused_reference as definition

needs("vlapack._kernels", remedy="install vlapack where there is a C++17 compiler")

FLOATS = [torch.float32, torch.bfloat16]
SHAPES = [(0, 64), (1, 8), (10, 1024), (6, 320), (51, 33)]


@pytest.fixture(params=engine.kernels.available(), autouse=True)
def _isa(request, monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "cpu")
    engine.active()
    before = engine.kernels.isa()
    engine.kernels.choose(request.param)
    yield
    engine.kernels.choose(before)


def steps(channels: int) -> tuple[Tensor | None, ...]:
    block = next(size for size in (64, 16, 8, 1) if channels % size == 0)
    return torch.rand(channels) + 0.5, torch.randperm(channels).to(torch.uint16), hadamard(block).float()


def assert_near(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    """The integers are off by one at most, and seldom: where a last bit moved a value, or the row's largest, at all."""
    (q, s), (q_expected, s_expected) = found, expected
    torch.testing.assert_close(s, s_expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0, equal_nan=True)
    same = (s == s_expected).expand_as(q)
    off = (q.int() - q_expected.int()).abs()
    assert off.max() <= 1 if off.numel() else True
    assert (off * same).sum() <= max(3, 2e-3 * q.numel())


def norms(rows: int, channels: int, dtype: torch.dtype):
    """Each kind, without and with an update; two samples where the rows divide."""
    samples = 2 if rows and rows % 2 == 0 else 1
    x, update = (torch.randn(rows, channels).to(dtype) * 3 for _ in range(2))
    vector = torch.randn(channels).to(dtype)
    modulation = torch.randn(samples, 3, channels)
    tokens = max(rows // samples, 1)
    for added in (None, update):
        yield x, "rms", vector, None, 1e-6, tokens, added, None, None, None, None
        yield x, "layer", vector, vector.flip(0), 1e-6, tokens, added, None, None, None, None
        factor, shift, gate = modulation.unbind(1)
        yield x, "adaptive", factor, shift, 1e-6, tokens, added, None, None, None, gate


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_round_what_the_definition_rounds(shape, dtype):
    for norm in norms(*shape, dtype):
        for options in ((), (*steps(shape[1]), None, 4), (None, None, None, torch.tensor([0.02]))):
            stream, *found = cpu_fused.norm_quantize(*norm, *options)
            expected_stream, *expected = definition.norm_quantize(*norm, *options)
            # A product and a sum in fp32 may be one operation in torch and two here.
            torch.testing.assert_close(stream, expected_stream, rtol=1e-6 if dtype == torch.float32 else 0, atol=1e-6)
            assert_near(found, expected, dtype)


@pytest.mark.parametrize("out", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_norms_that_stay_floating_are_the_definitions(shape, dtype, out):
    for norm in norms(*shape, dtype):
        found = cpu_fused.norm_transform(*norm, dtype=out)[1]
        expected = definition.norm_transform(*norm, dtype=out)[1]
        assert found.dtype == out
        torch.testing.assert_close(found, expected, rtol=1e-2 if torch.bfloat16 in (dtype, out) else 1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gelu_rounds_what_the_definition_rounds(shape, gated, dtype):
    both = (torch.randn(shape[0], 2 * shape[1]) * 3).to(dtype)
    gate, up = both[:, : shape[1]], both[:, shape[1] :] if gated else None
    for options in ((), steps(shape[1])):
        ending = (None, None, None)
        found = cpu_fused.gelu_quantize(gate, up, *ending, *options, gated=gated, dtype=dtype)
        assert_near(found, definition.gelu_quantize(gate, up, *ending, *options, gated=gated, dtype=dtype), dtype)


def test_gelu_is_within_a_few_last_bits_of_float64():
    x = torch.cat([torch.linspace(-12, 12, 40_001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 80.0, -80.0, 3e4, -3e4])])
    found = cpu_fused.gelu_transform(x[None], gated=False, dtype=torch.float32, out_dtype=torch.float32)[0]
    expected = torch.nn.functional.gelu(x.double(), approximate="tanh")
    assert ((found - expected).abs() <= 1e-6 * expected.abs() + 1e-9).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_spoils_its_row_alone(value):
    x, vector = torch.randn(3, 64), torch.randn(64)
    x[1, 5] = value
    assert cpu_fused.norm_quantize(x, "rms", vector, None, 1e-6, 3)[2].isnan().flatten().tolist() == [
        False,
        True,
        False,
    ]
    up = torch.randn(3, 64)
    found = cpu_fused.gelu_quantize(x, up, gated=True, dtype=torch.float32)
    assert found[1].isnan().flatten().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("heads", [0, 3])
@pytest.mark.parametrize("split", [False, True])
def test_turned_heads_are_the_definitions_bit_for_bit(heads, split, dtype):
    batch, groups, tokens, width, capacity = 2, 2, 5, 24, 9
    columns = (heads + 2 * groups) * width
    wide = torch.randn(batch * tokens, columns + 7).to(dtype)
    product, rest = wide[:, :columns], None
    if split:
        product, rest = product[:, : columns - 2 * width], product[:, columns - 2 * width :]
    for samples in (1, batch):
        cos, sin = torch.randn(2, samples, tokens, 1, width).to(dtype).unbind(0)
        caches = [torch.zeros(2, batch, groups, capacity, width, dtype=dtype) for _ in range(2)]
        found, expected = (
            ops.turn_and_keep(product, cos, sin, *cache.unbind(0), 3, None, None, None, rest, heads=heads)
            for ops, cache in zip((cpu_fused, attention_reference), caches, strict=True)
        )
        assert torch.equal(found, expected)
        assert torch.equal(*caches)


def test_threads_change_no_bit():
    x, up = torch.randn(70, 2048).bfloat16(), torch.randn(70, 2048).bfloat16()
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(cpu_fused.gelu_quantize(x, up, None, None, None, *steps_of_fixed(), gated=True, dtype=x.dtype))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for one in found[1:] for a, b in zip(one, found[0], strict=True))


def steps_of_fixed() -> tuple[Tensor | None, ...]:
    return None, torch.arange(2047, -1, -1, dtype=torch.int32), hadamard(64).float()


def test_what_does_not_fit_is_named():
    x, vector = torch.randn(4, 64), torch.randn(64)
    with pytest.raises(InputError, match="update"):
        cpu_fused.norm_quantize(x, "rms", vector, None, 1e-6, 4, torch.randn(4, 32))
    with pytest.raises(InputError, match="weight must be"):
        cpu_fused.norm_quantize(x, "rms", torch.randn(65), None, 1e-6, 4)
    with pytest.raises(InputError, match="without shift"):
        cpu_fused.norm_quantize(x, "adaptive", vector, None, 1e-6, 4)
    with pytest.raises(InputError, match="up"):
        cpu_fused.gelu_quantize(x, torch.randn(4, 63), gated=True, dtype=torch.float32)
    table = torch.ones(2, 1, 4, 1, 8)
    with pytest.raises(InputError, match="in a cache of 5"):
        cpu_fused.turn_and_keep(torch.randn(4, 16), *table, *torch.zeros(2, 1, 1, 5, 8), 2, heads=0)
