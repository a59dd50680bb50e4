"""A packed layer's derivative by its input is float64 autograd's of the dequantized layer, on every engine."""

from __future__ import annotations

import copy

import pytest
import torch
from dequantized import Dequantized

from vlapack.errors import InputError
from vlapack.linear import PackedLinear, project
from vlapack.ops import cpu_gradient, engine, gradient, library
from vlapack.ops.int4 import pack_int4

ENGINES = ["reference", *([] if engine.kernels is None else engine.kernels.available())]
NEAR = 1e-4
"""AVX-512 rounds gradients to 16 bits; the others are within 1e-6."""
BLOCK = 8


@pytest.fixture(params=ENGINES)
def any_engine(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setenv("VLAPACK_ENGINE", "reference")
        yield request.param
        return
    monkeypatch.setenv("VLAPACK_ENGINE", "cpu")
    engine.active()
    before = engine.kernels.isa()
    engine.kernels.choose(request.param)
    yield request.param
    engine.kernels.choose(before)


@pytest.fixture(params=["reference", *ENGINES[1:2]])
def some_engine(request, monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "cpu" if request.param in ENGINES[1:] else request.param)


def orthogonal(count, size):
    return torch.linalg.qr(torch.randn(count, size, size))[0].contiguous()


TRANSFORMS = {
    "none": lambda k: {},
    "a shared rotation": lambda k: {"rotation": orthogonal(1, BLOCK)},
    "all steps": lambda k: {
        "smooth": torch.rand(k) + 0.5,
        "pre_rotation": orthogonal(k // BLOCK, BLOCK),
        "permutation": torch.randperm(k).to(torch.uint16),
        "rotation": orthogonal(k // BLOCK, BLOCK),
    },
    "no first rotation": lambda k: {
        "permutation": torch.randperm(k).to(torch.uint16),
        "rotation": orthogonal(1, BLOCK),
    },
}


def tensors_of(n, k, *, bits=4, group_size=None, transform="all steps", rows=None, static=None, bias=True):
    low = -(2 ** (bits - 1))
    w = torch.randint(low, -low, (n, k), dtype=torch.int8)
    tensors = TRANSFORMS[transform](k)
    tensors |= {"weight_packed": pack_int4(w), "weight_shape": torch.tensor([n, k])} if bits == 4 else {"weight": w}
    tensors["weight_scale"] = (torch.rand(n, 1) + 0.1) * 0.1
    if group_size is not None:
        tensors["weight_scale"] = ((torch.rand(n, -(-k // group_size)) + 0.1) * 0.1).bfloat16()
    if rows is not None:
        tensors["row_rotation"] = orthogonal(1 if rows == "shared" else n // 11, 11)
    if bias:
        tensors["bias"] = torch.randn(n)
    if static is not None:
        tensors["input_scale"] = torch.tensor([static])
    return tensors


def layer(n=33, k=104, *, bits=4, group_size=None, act_bits=8, **options):
    static = options.get("static")
    return PackedLinear.from_tensors(
        tensors_of(n, k, bits=bits, group_size=group_size, **options),
        weight_bits=bits,
        group_size=group_size,
        act_bits=act_bits,
        act_scale="per_token" if static is None else "static",
    )


def gradients(packed, x, direction):
    """Ours, and float64 autograd's."""
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    y = packed(ours)
    (found,) = torch.autograd.grad(y, ours, direction.to(y.dtype))
    flat = theirs.reshape(-1, x.shape[-1])
    expected = Dequantized(packed)(flat).reshape(y.shape)
    (expected,) = torch.autograd.grad(expected, theirs, direction.double())
    return found, expected


def far(found, expected):
    return float((found.double() - expected).norm() / expected.norm().clamp_min(1e-30))


@pytest.mark.parametrize("rows", [None, "shared", "each its own"])
@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rounding", [(8, None), (4, None), (16, None), (8, 0.01), (4, 0.1)], ids=str)
def test_every_kind_of_layer_has_the_dequantized_ones_derivative(any_engine, rounding, bits, group_size, rows):
    act_bits, static = rounding
    packed = layer(bits=bits, group_size=group_size, act_bits=act_bits, static=static, rows=rows)
    x = torch.randn(2, 3, 104)
    found, expected = gradients(packed, x, torch.randn(2, 3, 33))
    assert found.dtype == x.dtype
    assert far(found, expected) <= NEAR


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("static", [None, 0.004])
def test_every_transform_is_turned_back(any_engine, static, transform):
    packed = layer(transform=transform, static=static)
    found, expected = gradients(packed, torch.randn(7, 104), torch.randn(7, 33))
    assert far(found, expected) <= NEAR


@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 8), (0, 4, 16), (1, 257, 8), (13, 31, 1160), (51, 130, 96), (25, 1, 1000), (12, 64, 1032)]
)
@pytest.mark.parametrize("bits", [4, 8])
def test_ugly_shapes(any_engine, bits, m, n, k):
    packed = layer(n, k, bits=bits, group_size=None if n == 1 else 64)
    found, expected = gradients(packed, torch.randn(m, k), torch.randn(m, n))
    assert found.shape == (m, k)
    assert far(found, expected) <= NEAR


@pytest.mark.parametrize("channels", [1, 7, 33, 1029])
def test_channels_that_fill_no_step(any_engine, channels):
    packed = layer(5, channels, transform="none", bits=4)
    found, expected = gradients(packed, torch.randn(3, channels), torch.randn(3, 5))
    assert far(found, expected) <= NEAR


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("act_bits", [8, 16])
def test_narrow_inputs_get_finite_gradients_of_their_dtype(some_engine, act_bits, dtype):
    packed = layer(act_bits=act_bits, rows="shared")
    x = torch.randn(10, 104).to(dtype)
    found, expected = gradients(packed, x, torch.randn(10, 33).to(dtype))
    assert found.dtype == dtype
    assert found.isfinite().all()
    assert far(found, expected) <= torch.finfo(dtype).eps


def test_a_static_scale_clips_the_derivative_exactly_where_it_clips_the_value():
    packed = layer(4, 8, transform="none", static=0.01, bias=False)
    x = torch.tensor([[0.0, 1.27, -1.27, 1.2749, 1.2751, -1.2751, 5.0, -0.3]], requires_grad=True)
    (found,) = torch.autograd.grad(packed(x).sum(), x)
    assert (found[0] == 0).tolist() == [False, False, False, False, True, True, True, False]


def test_the_value_is_the_plain_layers_to_the_bit(some_engine):
    for act_bits in (8, 4, 16):
        packed, x = layer(act_bits=act_bits, group_size=32, rows="shared"), torch.randn(9, 104)
        assert torch.equal(packed(x.clone().requires_grad_()), packed(x))


def test_layers_that_share_a_step_add_their_gradients():
    first = layer(33, 104)
    second = PackedLinear.from_tensors(tensors_of(20, 104, bits=8), weight_bits=8, inputs=first.inputs)
    x = torch.randn(6, 104, requires_grad=True)
    directions = torch.randn(6, 33), torch.randn(6, 20)
    (found,) = torch.autograd.grad(project(x, first, second), x, directions)
    alone = [torch.autograd.grad(one(x), x, way)[0] for one, way in zip((first, second), directions, strict=True)]
    torch.testing.assert_close(found, alone[0] + alone[1])


def test_what_a_layer_holds_never_gets_a_gradient():
    packed = layer(rows="shared")
    for name, buffer in packed.named_buffers():
        if buffer.is_floating_point():
            buffer.requires_grad_()
            assert buffer.grad is None, name
    x = torch.randn(3, 104, requires_grad=True)
    packed(x).sum().backward()
    assert x.grad is not None
    assert all(buffer.grad is None for buffer in packed.buffers())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_gradient_that_is_not_finite_is_passed_on_in_its_row_alone(any_engine, value):
    packed, x, way = layer(transform="none"), torch.randn(3, 104, requires_grad=True), torch.randn(3, 33)
    (expected,) = torch.autograd.grad(packed(x), x, way)
    way[1, 32] = value
    (found,) = torch.autograd.grad(packed(x), x, way)
    assert torch.equal(found[::2], expected[::2])
    # A weight of zero may stop an infinity, and does not have to.
    assert not found[1].isfinite().any()


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1e30])
def test_gradients_of_any_size(any_engine, factor):
    packed, x, way = layer(), torch.randn(3, 104), torch.randn(3, 33) * factor
    found, expected = gradients(packed, x, way)
    assert far(found, expected) <= NEAR


def test_a_token_that_is_not_finite_spoils_no_other():
    packed, x = layer(), torch.randn(4, 104)
    x[1, 5] = torch.inf
    direction = torch.randn(4, 33)
    whole, alone = x.clone().requires_grad_(), x[2:].clone().requires_grad_()
    (found,) = torch.autograd.grad(packed(whole), whole, direction)
    (expected,) = torch.autograd.grad(packed(alone), alone, direction[2:])
    assert torch.equal(found[2:], expected)


def test_nothing_but_what_a_layer_holds_is_kept_for_the_way_back():
    packed, kept = layer(rows="shared"), []
    held = {buffer.data_ptr() for buffer in packed.buffers()}
    x = torch.randn(40, 104, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        packed(x)
    assert kept
    assert {tensor.data_ptr() for tensor in kept} <= held


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("act_bits", "static"), [(8, None), (16, None), (8, 0.01)], ids=str)
def test_compiled_without_a_break_it_is_the_same(some_engine, act_bits, static, dynamic):
    packed = layer(act_bits=act_bits, static=static, rows="shared")
    torch.compiler.reset()
    compiled = torch.compile(packed, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (3, 5):
        x, direction = torch.randn(rows, 104), torch.randn(rows, 33)
        expected, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        assert torch.equal(compiled(theirs), packed(expected))
        (found,) = torch.autograd.grad(compiled(theirs), theirs, direction)
        assert torch.equal(found, torch.autograd.grad(packed(expected), expected, direction)[0])


@pytest.mark.filterwarnings("ignore:vlapack..*an autograd kernel was not registered")
def test_a_second_derivative_is_an_error_rather_than_zero():
    packed, x = layer(), torch.randn(3, 104, requires_grad=True)
    (first,) = torch.autograd.grad(packed(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate, once"):
        first.sum().backward()


@pytest.mark.parametrize("act_bits", [8, 16])
def test_a_forward_mode_derivative_is_an_error_rather_than_zero(act_bits):
    x = torch.randn(3, 104)
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(layer(act_bits=act_bits), (x,), (x,))


@pytest.mark.parametrize("static", [None, 0.01])
def test_ops_of_a_step_pass_opcheck(static):
    packed, x = layer(static=static), torch.randn(5, 104)
    step = packed.inputs
    rounding = (step.smooth, step.permutation, step.rotation, step.input_scale, 8, step.pre_rotation)
    q, s = library.quantize_activation(x, *rounding)
    torch.library.opcheck(gradient.straight_through, (x.requires_grad_(), q, s, *rounding))
    back = (torch.randn(5, 104), x.detach(), *rounding)
    torch.library.opcheck(gradient.activation_gradient, back, {"dtype": x.dtype})
    steps = (step.smooth, step.permutation, step.rotation, step.pre_rotation)
    torch.library.opcheck(library.transform_activation, (x, *steps))


@pytest.mark.parametrize("bits", [4, 8])
def test_ops_of_a_linear_pass_opcheck(some_engine, bits):
    packed = layer(bits=bits, rows="shared", group_size=32)
    held = (packed._stored(), packed.weight_scale, packed.row_rotation)
    q, s = torch.randint(-127, 128, (5, 104), dtype=torch.int8), torch.rand(5, 1)
    through, options = (q.float() * s).requires_grad_(), {"dtype": torch.float32, "group_size": 32}
    torch.library.opcheck(gradient.linear_through, (through, q, s, *held, packed.bias), options)
    torch.library.opcheck(gradient.linear_gradient, (torch.randn(5, 33), *held), {"inputs": 104, "group_size": 32})
    if packed.weight_prepared is None:
        torch.library.opcheck(library.float_linear, (through.detach().requires_grad_(), *held, packed.bias), options)


@pytest.mark.skipif(engine.kernels is None, reason="the compiled engine is what is tested")
def test_the_kernel_gives_the_same_bits_on_any_number_of_threads(monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "cpu")
    packed, way = layer(257, 1032, group_size=64), torch.randn(37, 257)
    held = (packed.weight_prepared, packed.weight_scale)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(cpu_gradient.linear_gradient(way, *held, inputs=1032, group_size=64))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.skipif(engine.kernels is None, reason="the compiled engine is what is tested")
def test_what_the_kernel_cannot_read_is_refused(monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "cpu")
    packed = layer()
    held = (packed.weight_prepared, packed.weight_scale)
    with pytest.raises(InputError, match=r"gradient must be torch.float32 \[3, 33\]"):
        gradient.linear_gradient(torch.randn(3, 32), *held, inputs=104)
    with pytest.raises(InputError, match="weight must be"):
        gradient.linear_gradient(torch.randn(3, 33), *held, inputs=999)
    with pytest.raises(InputError, match="groups of 4 channels"):
        gradient.linear_gradient(torch.randn(3, 33), *held, inputs=104, group_size=4)


def test_a_copied_and_cast_layer_still_has_its_derivative():
    packed = copy.deepcopy(layer(rows="shared")).to(torch.bfloat16)
    found, expected = gradients(packed, torch.randn(4, 104), torch.randn(4, 33))
    assert far(found, expected) <= NEAR
