"""Norms, sums and MLP activations in an activation step's launch give what their definition in plain torch gives."""

from __future__ import annotations

import pytest
import torch

from vlapack.errors import InputError
from vlapack.methods.rotate import hadamard
from vlapack.ops import fused_reference as reference
from vlapack.ops.triton import fused

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _without_derivatives():
    with torch.no_grad():
        yield


def assert_near(found, expected, dtype):
    """Integers one apart at most, where the last bit of a value before them differs. Measured: 0 of 41,000 a dtype."""
    (q, s), (expected_q, expected_s) = found, expected
    differs = (q.int() - expected_q.int()).abs()
    assert differs.amax() <= 1
    assert differs.sum() <= 1
    ulp = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert s.shape == expected_s.shape
    assert torch.allclose(s, expected_s, rtol=ulp, equal_nan=True)


def steps_of(k):
    """None, Hadamard blocks, dense blocks at 4 bits, and a first rotation with a static step."""
    blocks = torch.linalg.qr(torch.randn(1, 16, 16))[0].contiguous()
    permutation = torch.randperm(k).to(torch.uint16)
    return [
        {},
        {"smooth": torch.rand(k) + 0.5, "permutation": permutation, "rotation": hadamard(16).float()},
        {"permutation": permutation, "rotation": blocks, "bits": 4},
        {"permutation": permutation, "rotation": hadamard(16).float(), "scale": torch.tensor([0.03])}
        | {"pre_rotation": blocks},
    ]


def unrounded(steps):
    return {name: value for name, value in steps.items() if name not in {"scale", "bits"}}


def sums_of(parts, m, n):
    """A product of values of a few units as sums of its shares, and what ends it."""
    shares = torch.randint(-(2**20), 2**20, (parts, m, n), dtype=torch.int32)
    return {"s": torch.rand(m, 1) / 2**20, "weight_scale": torch.rand(n, 1), "bias": torch.randn(n)}, shares


def norm_of(kind, k, dtype, batch):
    """The tensors of a norm, in the dtypes that the network has for them."""
    if kind == "adaptive":
        return dict(zip(("weight", "shift"), torch.randn(batch, 3, k).unbind(1), strict=False)) | {"eps": 1e-6}
    weight, shift = torch.randn(2, k).to(dtype)
    return {"weight": weight, "shift": shift if kind == "layer" else None, "eps": 1e-6}


def ulps(dtype):
    return {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-6}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", reference.NORMS)
@pytest.mark.parametrize("k", [48, 1024])
def test_a_norm_reads_the_stream_as_it_is_without_an_update(k, kind, dtype):
    norm = {"x": (torch.randn(3, k) * 5).to(dtype), "kind": kind, "tokens": 3, **norm_of(kind, k, dtype, 1)}
    stream, *found = fused.norm_quantize(**norm)
    assert (stream.shape, stream.dtype) == ((0, k), dtype)
    assert_near(found, reference.norm_quantize(**norm)[1:], dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("kind", reference.NORMS)
def test_a_sum_comes_before_every_norm(kind, steps, dtype):
    k = 80
    x, update = (torch.randn(2, 5, k) * 5 + 2).to(dtype)
    norm = {"x": x, "kind": kind, "tokens": 5, "update": update, **norm_of(kind, k, dtype, 1)}
    steps = steps_of(k)[steps]
    stream, *found = fused.norm_quantize(**norm, **steps)
    assert torch.equal(stream, x + update)
    assert_near(found, reference.norm_quantize(**norm, **steps)[1:], dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("parts", [0, 1, 8])
def test_an_adaptive_norm_reads_a_gated_product_before_it_is_ended(parts, batch, dtype):
    """The values before the norm differ by one rounding where torch fuses the gate's product with the sum."""
    tokens, k = 4, 80
    m = batch * tokens
    ending, update = sums_of(parts, m, k) if parts else ({}, torch.randn(m, k).to(dtype))
    norm = {"x": torch.randn(m, k).to(dtype), "kind": "adaptive", "tokens": tokens, "update": update, **ending}
    norm |= {**norm_of("adaptive", k, dtype, batch), "gate": torch.randn(batch, 3, k)[:, 2]}
    steps = steps_of(k)[1]
    stream, *found = fused.norm_quantize(**norm, **steps)
    assert torch.allclose(stream, reference.norm_quantize(**norm, **steps)[0], **ulps(dtype))
    after = {name: norm[name] for name in ("kind", "tokens", "weight", "shift", "eps")}
    assert_near(found, reference.norm_quantize(stream, **after, **steps)[1:], dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_sums_end_as_the_product_would_end_bit_for_bit(with_bias, dtype):
    ending, update = sums_of(3, 5, 33)
    norm = {"x": torch.zeros(5, 33, dtype=dtype), "kind": "rms", "tokens": 5, **norm_of("rms", 33, dtype, 1)}
    ending |= {"bias": ending["bias"].to(dtype) if with_bias else None}
    stream, _, _ = fused.norm_quantize(**norm, update=update, **ending)
    assert torch.equal(stream, reference.ended(update, *ending.values(), dtype))


def test_the_largest_sums_are_added_as_integers():
    """Halves of them, added in fp32, would lose the last bits."""
    most = 16384 * 128 * 8
    update = torch.tensor([[[most - 1, 1 - most]], [[2 - most, most]]], dtype=torch.int32)
    norm = {"x": torch.zeros(1, 2), "kind": "rms", "weight": torch.zeros(2), "shift": None, "eps": 0.0, "tokens": 1}
    stream, _, _ = fused.norm_quantize(**norm, update=update, s=torch.ones(1, 1), weight_scale=torch.ones(2, 1))
    assert stream.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(("dtype", "out"), [*zip(FLOATS, FLOATS, strict=True), (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("steps", range(4))
def test_rows_that_stay_floating_are_those_before_their_integers(steps, dtype, out):
    k = 80
    steps = unrounded(steps_of(k)[steps])
    x, update, gate, up = torch.randn(4, 5, k).to(dtype) * 2
    norm = {"x": x, "kind": "adaptive", "tokens": 5, "update": update, **norm_of("adaptive", k, dtype, 1)}
    found = fused.norm_transform(**norm, **steps, dtype=out)
    expected = reference.norm_transform(**norm, **steps, dtype=out)
    assert torch.equal(found[0], expected[0])
    # A step may spread the last bit of a value, the largest of which are between 16 and 32, over a block.
    last = {"rtol": 2 * torch.finfo(out).eps, "atol": 16 * torch.finfo(dtype).eps}
    activation = {"gate": gate, "up": up, "gated": True, "dtype": dtype, "out_dtype": out, **steps}
    for one, other in (
        (found[1], expected[1]),
        (fused.gelu_transform(**activation), reference.gelu_transform(**activation)),
    ):
        assert one.dtype == out
        assert torch.allclose(one, other, **last)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("steps", range(4))
@pytest.mark.parametrize("parts", [0, 3])
@pytest.mark.parametrize("gated", [False, True])
def test_an_mlps_activation_is_rounded_as_plain_torch_rounds_it(gated, parts, steps, dtype):
    m, f = 5, 80
    if parts:
        ending, gate = sums_of(parts, m, 2 * f if gated else f)
        options = {"gate": gate, **ending}
    else:
        both = torch.randn(m, 2 * f).to(dtype) * 2
        options = {"gate": both[:, :f], "up": both[:, f:] if gated else None}
    options |= {"gated": gated, "dtype": dtype, **steps_of(f)[steps]}
    assert_near(fused.gelu_quantize(**options), reference.gelu_quantize(**options), dtype)


def test_vision_rows_that_are_no_power_of_two_wide():
    options = {"gate": torch.randn(2, 4304).bfloat16(), "gated": False, "dtype": torch.bfloat16}
    options |= {"rotation": hadamard(16).float(), "permutation": torch.randperm(4304).to(torch.uint16)}
    assert_near(fused.gelu_quantize(**options), reference.gelu_quantize(**options), torch.bfloat16)


def test_a_row_that_is_not_finite_stays_so():
    norm = {"kind": "rms", "weight": torch.zeros(64), "shift": None, "eps": 1e-6, "tokens": 3}
    x = torch.randn(3, 64)
    x[1, 5] = torch.nan
    ending, sums = sums_of(2, 3, 64)
    ending["s"][1] = torch.nan
    for before, update in ((x, {"update": torch.ones(3, 64)}), (torch.zeros(3, 64), {"update": sums, **ending})):
        stream, q, s = fused.norm_quantize(before, **norm, **update)
        assert stream.isnan().any(1).tolist() == s.isnan().flatten().tolist() == [False, True, False]
        assert not q[1].any()
    for gate in ({"gate": x, "up": torch.ones(3, 64)}, {"gate": sums, **ending}):
        q, s = fused.gelu_quantize(**gate, gated=True, dtype=torch.float32)
        assert s.isnan().flatten().tolist() == [False, True, False]
        assert not q[1].any()


def test_views_are_read_where_they_lie():
    wide, sums = torch.randn(6, 3, 64), torch.randint(-9, 9, (4, 6, 128), dtype=torch.int32)
    modulation = torch.randn(2, 64, 3).transpose(1, 2)
    ending = {"s": torch.rand(6, 1), "weight_scale": torch.rand(64, 1)}
    views = {"x": wide[:, 0], "weight": modulation[:, 0], "shift": modulation[:, 1], "gate": modulation[:, 2]}
    for update in ({"update": wide[:, 2]}, {"update": sums[::2, :, 64:], **ending}):
        given = {**views, **update}
        same = {name: tensor.contiguous() for name, tensor in given.items()}
        options = {"kind": "adaptive", "eps": 1e-6, "tokens": 3}
        for one, other in zip(
            fused.norm_quantize(**given, **options), fused.norm_quantize(**same, **options), strict=True
        ):
            assert torch.equal(one, other)


def test_no_rows_are_no_work():
    norm = {"kind": "rms", "weight": torch.zeros(8), "shift": None, "eps": 1e-6, "tokens": 1}
    stream, q, s = fused.norm_quantize(torch.zeros(0, 8), **norm, update=torch.zeros(0, 8))
    assert (stream.shape, q.shape, s.shape) == ((0, 8), (0, 8), (0, 1))
    sums = torch.zeros(1, 0, 8, dtype=torch.int32)
    ending = {"s": torch.zeros(0, 1), "weight_scale": torch.zeros(8, 1)}
    assert fused.gelu_quantize(sums, **ending, gated=True, dtype=torch.float32)[0].shape == (0, 4)


SUMS = torch.zeros(2, 6, 8, dtype=torch.int32)
ENDING = {"s": torch.ones(6, 1), "weight_scale": torch.ones(8, 1)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.zeros(6, 8).double()}, "x is torch.float64"),
        ({"kind": "batch"}, "kind 'batch': there are rms, adaptive, layer"),
        (
            {"update": torch.zeros(6, 9)},
            r"\[6, 8\] on cpu, or int32 sums of it, not torch.float32 \[6, 9\]",
        ),
        ({"update": torch.zeros(6, 8).half()}, "not torch.float16"),
        ({"update": SUMS[:, :5], **ENDING}, r"int32 sums \[S, 6, 8\] on cpu, not torch.int32 \[2, 5, 8\]"),
        ({"update": SUMS, "s": torch.ones(6, 1)}, "`weight_scale` ends: it is None"),
        ({"update": SUMS, **ENDING, "s": torch.ones(6)}, r"s must be torch.float32 \[6, 1\]"),
        ({"update": SUMS, **ENDING, "bias": torch.ones(8).int()}, "bias must be floating"),
        ({"update": None, "gate": torch.zeros(1, 8)}, "there is none"),
        (
            {"gate": torch.zeros(3, 8)},
            r"gate must be floating \[8\] or \[1 or 2, 8\] on cpu, not .* \[3, 8\]",
        ),
        ({"tokens": 4}, "tokens=4 of 6 rows"),
        ({"weight": torch.zeros(7)}, r"weight must be floating \[8\]"),
        ({"shift": torch.zeros(8)}, "rms has no shift"),
        ({"kind": "adaptive"}, "adaptive needs a shift"),
        ({"kind": "layer", "shift": torch.zeros(2, 8)}, r"shift \[2, 8\] must have its weight's shape \[8\]"),
    ],
)
def test_what_does_not_fit_a_norm_is_refused_with_the_numbers(change, said):
    good = {"x": torch.zeros(6, 8), "kind": "rms", "weight": torch.zeros(8), "shift": None, "eps": 1e-6, "tokens": 3}
    with pytest.raises(InputError, match=said):
        fused.norm_quantize(**{**good, "update": torch.zeros(6, 8), **change})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gate": torch.zeros(6, 8).half()}, r"gate must be torch.float32 \[M, F\]"),
        ({"up": None}, "gated=True and a product that is ended without `up`"),
        ({"gate": SUMS, **ENDING}, "sums of a product with `up`"),
        ({"gate": SUMS[:, :, 1:], **ENDING, "up": None}, "7 outputs of gate and up in turns"),
        ({"gated": False}, "gated=False"),
        ({"up": torch.zeros(6, 7)}, r"up must be torch.float32 \[6, 8\]"),
        ({"dtype": torch.float64}, "dtype is torch.float64"),
    ],
)
def test_what_does_not_fit_an_activation_is_refused_with_the_numbers(change, said):
    good = {"gate": torch.zeros(6, 8), "up": torch.zeros(6, 8), "gated": True, "dtype": torch.float32}
    with pytest.raises(InputError, match=said):
        fused.gelu_quantize(**{**good, **change})
