"""Fused steps give what plain torch gives in a row: the network's own norms and sums, then the reference's rounding."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from vlapack.errors import InputError
from vlapack.methods.rotate import hadamard
from vlapack.ops import reference
from vlapack.ops.triton.activation import Steps
from vlapack.ops.triton.fused import Norm, gated_quantize, norm_quantize
from vlapack.pi0.gemma import RMSNorm

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _without_derivatives():
    with torch.no_grad():
        yield


def plain(x, steps):
    return reference.quantize_activation(
        x, steps.smooth, steps.permutation, steps.rotation, steps.scale, steps.bits, steps.pre_rotation
    )


def assert_near(found, expected, dtype):
    """Integers one apart at most, where the last bit of a value before them differs. Measured: 0 of 41,000 a dtype."""
    (q, s), (expected_q, expected_s) = found, expected
    differs = (q.int() - expected_q.int()).abs()
    assert differs.amax() <= 1
    assert differs.sum() <= 1
    ulp = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert torch.allclose(s, expected_s, rtol=ulp)


def steps_of(k):
    blocks = torch.linalg.qr(torch.randn(1, 16, 16))[0]
    permutation = torch.randperm(k).to(torch.uint16)
    return [
        Steps(),
        Steps(torch.rand(k) + 0.5, permutation, hadamard(16).float()),
        Steps(None, permutation, blocks, bits=4),
        Steps(None, permutation, hadamard(16).float(), torch.tensor([0.03]), pre_rotation=blocks),
    ]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", [48, 1024])
def test_a_norm_reads_the_stream_as_it_is_without_an_update(k, dtype):
    x, norm = (torch.randn(3, k) * 5).to(dtype), RMSNorm(k).to(dtype)
    norm.weight.data.normal_(std=0.3)
    stream, q, s = norm_quantize(x, Norm.rms(norm.weight.data), Steps())
    assert stream is x
    assert_near((q, s), plain(norm(x[None])[0][0], Steps()), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", range(4))
def test_a_sum_comes_before_gemmas_norm(kind, dtype):
    k = 80
    steps = steps_of(k)[kind]
    x, update = torch.randn(2, 5, k).to(dtype) * 5
    norm = RMSNorm(k).to(dtype)
    norm.weight.data.normal_(std=0.3)
    stream, q, s = norm_quantize(x, Norm.rms(norm.weight.data), steps, update)
    assert torch.equal(stream, x + update)
    assert_near((q, s), plain(norm((x + update)[None])[0][0], steps), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shared", [False, True])
def test_an_adaptive_norm_has_factor_shift_and_the_gate_of_the_one_before(shared, dtype):
    batch, tokens, k = 3, 4, 80
    x, update = torch.randn(2, batch, tokens, k).to(dtype)
    modulations = torch.randn(1 if shared else batch, 2, 3, k)
    before, after = modulations.unbind(1)
    norm = RMSNorm(k, cond_dim=8)
    steps = steps_of(k)[1]
    flat = [one.reshape(-1, k) for one in (x, update)]
    stream, q, s = norm_quantize(flat[0], Norm.adaptive(after), steps, flat[1], before[:, 2], tokens=tokens)
    summed = torch.addcmul(x, update, before[:, None, 2].to(dtype))
    # Where torch fuses the sum's product with it, the last bit of some differs.
    assert torch.allclose(stream.float(), summed.reshape(-1, k).float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    factor, shift, gate = after[:, :, None].unbind(1)
    expected = norm(stream.reshape(batch, tokens, k), (factor, shift, gate.to(dtype)))[0].reshape(-1, k)
    assert_near((q, s), plain(expected, steps), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_sum_comes_before_the_vision_towers_norm(dtype):
    k = 144
    x, update = (torch.randn(2, 5, k) + 2).to(dtype)
    weight, bias = torch.randn(2, k).to(dtype)
    stream, q, s = norm_quantize(x, Norm.layer(weight, bias), Steps(), update)
    assert torch.equal(stream, x + update)
    assert_near((q, s), plain(layer_norm(x + update, (k,), weight, bias, 1e-6), Steps()), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", range(4))
def test_an_mlps_activation_is_rounded_as_plain_torch_rounds_it(kind, dtype):
    gate, up = torch.randn(2, 5, 80).to(dtype) * 2
    steps = steps_of(80)[kind]
    activated = gelu(gate, approximate="tanh")
    assert_near(gated_quantize(gate, steps, up), plain(activated * up, steps), dtype)
    assert_near(gated_quantize(gate, steps), plain(activated, steps), dtype)


def test_vision_rows_that_are_no_power_of_two_wide():
    gate = torch.randn(2, 4304).bfloat16()
    steps = Steps(rotation=hadamard(16).float())
    assert_near(gated_quantize(gate, steps), plain(gelu(gate, approximate="tanh"), steps), torch.bfloat16)


def test_a_row_that_is_not_finite_stays_so():
    x = torch.randn(3, 64)
    x[1, 5] = torch.nan
    stream, q, s = norm_quantize(x, Norm.rms(torch.zeros(64)), Steps(), torch.ones(3, 64))
    assert stream.isnan().any(1).tolist() == s.isnan().flatten().tolist() == [False, True, False]
    assert not q[1].any()
    q, s = gated_quantize(x, Steps(), torch.ones(3, 64))
    assert s.isnan().flatten().tolist() == [False, True, False]


def test_strided_streams_and_modulations_are_read_where_they_lie():
    wide = torch.randn(6, 3, 64)
    x, update = wide[:, 0], wide[:, 2]
    modulation = torch.randn(2, 64, 3).transpose(1, 2)
    found = norm_quantize(x, Norm.adaptive(modulation), Steps(), update, modulation[:, 2], tokens=3)
    same = [one.contiguous() for one in (x, modulation, update)]
    expected = norm_quantize(same[0], Norm.adaptive(same[1]), Steps(), same[2], same[1][:, 2], tokens=3)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_no_rows_are_no_work():
    stream, q, s = norm_quantize(torch.zeros(0, 8), Norm.rms(torch.zeros(8)), Steps(), torch.zeros(0, 8))
    assert (stream.shape, q.shape, s.shape) == ((0, 8), (0, 8), (0, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"update": torch.zeros(6, 9)}, r"update must be torch.float32 \[6, 8\] on cpu, not torch.float32 \[6, 9\]"),
        ({"update": torch.zeros(6, 8).half()}, "not torch.float16"),
        ({"update": None, "gate": torch.zeros(1, 8)}, "there is none"),
        ({"gate": torch.zeros(3, 8)}, r"gate must be floating \[8\] or \[1 or 2, 8\], not torch.float32 \[3, 8\]"),
        ({"tokens": 4}, "tokens=4 of 6 rows"),
        ({"norm": Norm.rms(torch.zeros(7))}, r"weight must be floating \[8\]"),
        ({"norm": Norm.layer(torch.zeros(8), torch.zeros(2, 8))}, r"shift \[2, 8\] must have its weight's shape \[8\]"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(change, said):
    good = {"x": torch.zeros(6, 8), "norm": Norm.rms(torch.zeros(8)), "update": torch.zeros(6, 8), "tokens": 3}
    with pytest.raises(InputError, match=said):
        norm_quantize(**good | {"steps": Steps()} | change)
