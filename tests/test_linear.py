"""A packed layer must be a drop-in for nn.Linear, share one activation step, and never let a cast round its scales."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vlapack.errors import InputError
from vlapack.linear import PackedLinear, project
from vlapack.methods.permute import zigzag
from vlapack.methods.rotate import rotate_rows, rotation, row_rotation
from vlapack.methods.round import round_weight, step_size
from vlapack.methods.transform import Transform
from vlapack.ops.activation import ActivationStep
from vlapack.ops.int4 import pack_int4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pack(weight, bias=None, *, bits=4, block=16, row_rot=None, static=None):
    """What a pack stores for `weight` [N, K], transformed by permutation and svd_hadamard."""
    permutation = zigzag(weight.abs().amax(0), block)
    turned = rotation("svd_hadamard", weight[:, permutation], block, shared=True)
    made = Transform(None, permutation, turned)
    tensors = made.tensors()
    inner = made.weight(weight)
    if row_rot:
        tensors["row_rotation"] = row_rotation(inner, block, row_rot).float()
        inner = rotate_rows(inner, tensors["row_rotation"])
    q, tensors["weight_scale"] = round_weight(inner, bits)
    if bits == 4:
        tensors |= {"weight_packed": pack_int4(q), "weight_shape": torch.tensor(q.shape)}
    else:
        tensors["weight"] = q
    if bias is not None:
        tensors["bias"] = bias
    if static is not None:
        tensors["input_scale"] = static
    return tensors


def relative_error(y, expected):
    return float((y - expected).norm() / expected.norm())


@pytest.mark.parametrize("row_rot", [None, "svd", "hadamard"])
@pytest.mark.parametrize(("bits", "act_bits", "bound"), [(4, 8, 0.14), (4, 16, 0.14), (8, 8, 0.02), (8, 16, 0.02)])
def test_every_kind_of_layer_is_close_to_the_linear_it_replaces(bits, act_bits, bound, row_rot):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(4304, 48)
    nn.init.normal_(linear.weight, generator=generator)
    x = torch.randn(2, 3, 4304, generator=generator)
    tensors = pack(linear.weight.detach(), linear.bias.detach(), bits=bits, row_rot=row_rot)
    packed = PackedLinear.from_tensors(tensors, weight_bits=bits, act_bits=act_bits)
    expected = linear(x).detach()
    assert packed(x).shape == expected.shape
    assert relative_error(packed(x), expected) < bound


def test_a_static_scale_is_close_too():
    weight, x = torch.randn(16, 256), torch.randn(50, 256)
    made = Transform.from_tensors(pack(weight))
    static = step_size(made.inputs(x).abs().quantile(0.999).reshape(1), 127)
    packed = PackedLinear.from_tensors(pack(weight, static=static), weight_bits=4, act_scale="static")
    assert relative_error(packed(x), x @ weight.T) < 0.14


@pytest.mark.parametrize("bits", [4, 8])
def test_one_output_odd_inputs_and_no_rows(bits):
    packed = PackedLinear.from_tensors(pack(torch.randn(1, 33), bits=bits, block=1), weight_bits=bits)
    assert packed(torch.randn(33)).shape == (1,)
    assert packed(torch.randn(0, 33)).shape == (0, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_output_has_the_inputs_dtype(dtype):
    packed = PackedLinear.from_tensors(pack(torch.randn(16, 32), torch.randn(16)), weight_bits=4)
    assert packed(torch.randn(3, 32).to(dtype)).dtype == dtype


def test_only_the_stored_bytes_are_held(monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    tensors = pack(torch.randn(64, 128), torch.randn(64), row_rot="svd")
    packed = PackedLinear.from_tensors(tensors, weight_bits=4)
    held = {buffer.data_ptr(): buffer.nbytes for buffer in packed.buffers()}
    del tensors["weight_shape"]
    assert held == {tensor.data_ptr(): tensor.nbytes for tensor in tensors.values()}
    assert not list(packed.parameters())


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.double()])
def test_casting_the_model_does_not_change_what_a_layer_holds(cast):
    model = nn.Sequential(PackedLinear.from_tensors(pack(torch.randn(16, 32), torch.randn(16)), weight_bits=4))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    cast(model)
    for name, buffer in model.named_buffers():
        assert buffer.dtype == before[name].dtype
        assert torch.equal(buffer, before[name])


def test_moving_the_model_keeps_the_step_shared():
    first = PackedLinear.from_tensors(pack(torch.randn(16, 32)), weight_bits=4)
    second = PackedLinear.from_tensors(pack(torch.randn(8, 32)), weight_bits=4, inputs=first.inputs)
    moved = copy.deepcopy(nn.ModuleList([first, second])).to("meta")
    assert moved[0].inputs is moved[1].inputs
    assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}


def test_project_runs_a_shared_step_once_and_changes_nothing():
    first = PackedLinear.from_tensors(pack(torch.randn(16, 32)), weight_bits=4)
    second = PackedLinear.from_tensors(pack(torch.randn(8, 32)), weight_bits=4, inputs=first.inputs)
    alone = PackedLinear.from_tensors(pack(torch.randn(8, 32)), weight_bits=4)
    plain, x = nn.Linear(32, 5), torch.randn(2, 3, 32)
    runs = []
    first.inputs.register_forward_hook(lambda *_: runs.append(1))
    outputs = project(x, first, second, alone, plain)
    assert len(runs) == 1
    for y, layer in zip(outputs, (first, second, alone, plain), strict=True):
        assert torch.equal(y, layer(x))


def test_project_calls_layers_so_that_calibration_hooks_see_the_input():
    linears, seen = [nn.Linear(4, 3), nn.Linear(4, 2)], []
    for linear in linears:
        linear.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(2, 4)
    project(x, *linears)
    assert [tensor is x for tensor in seen] == [True, True]


def test_project_compiles_without_a_graph_break():
    first = PackedLinear.from_tensors(pack(torch.randn(16, 32)), weight_bits=4)
    second = PackedLinear.from_tensors(pack(torch.randn(8, 32)), weight_bits=4, inputs=first.inputs)
    compiled = torch.compile(lambda x: project(x, first, second), fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 32)
    for found, expected in zip(compiled(x), project(x, first, second), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight_scale": torch.ones(3, 1)}, r"weight_scale of a 16 x 32 layer must be torch.float32 \[16, 1\]"),
        ({"weight_scale": torch.ones(16, 1).bfloat16()}, "not torch.bfloat16"),
        ({"weight_shape": torch.tensor([16, 48])}, r"weight_packed of a 16 x 48 layer must be torch.int32 \[16, 6\]"),
        ({"input_scale": torch.ones(1)}, "per_token activation scale"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        PackedLinear.from_tensors({**pack(torch.randn(16, 32)), **change}, weight_bits=4)


def test_missing_tensors_are_named():
    with pytest.raises(InputError, match="8-bit layer needs weight; it has"):
        PackedLinear.from_tensors(pack(torch.randn(16, 32)), weight_bits=8)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"act_bits": 5}, "5 bits"),
        ({"act_scale": "static"}, "without a stored"),
        ({"act_bits": 16, "act_scale": "static"}, "16 bits"),
    ],
)
def test_an_activation_step_that_cannot_run_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        ActivationStep({}, **options)


def test_an_unknown_engine_is_refused_when_a_layer_is_built(monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "warp")
    with pytest.raises(InputError, match="warp"):
        PackedLinear.from_tensors(pack(torch.randn(16, 32)), weight_bits=4)


@pytest.mark.parametrize("act_bits", [8, 16])
def test_a_layer_with_group_scales_is_close_to_its_weights_and_holds_them_in_bf16(act_bits):
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(16, 200, generator=draw), torch.randn(5, 200, generator=draw)
    q, scale = round_weight(weight, 4, group_size=64)
    tensors = {"weight_packed": pack_int4(q), "weight_shape": torch.tensor(q.shape), "weight_scale": scale}
    packed = PackedLinear.from_tensors(tensors, weight_bits=4, group_size=64, act_bits=act_bits)
    assert relative_error(packed(x), x @ weight.T) < 0.14
    assert packed.weight_scale.dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"weight_scale of a 16 x 200 layer must be torch.bfloat16 \[16, 7\]"):
        PackedLinear.from_tensors(tensors, weight_bits=4, group_size=32)


def test_four_bit_activations_run_in_the_same_product():
    weight, x = torch.randn(16, 256), torch.randn(20, 256)
    packed = PackedLinear.from_tensors(pack(weight), weight_bits=4, act_bits=4)
    assert packed.inputs(x).values.abs().amax() == 7
    assert relative_error(packed(x), x @ weight.T) < 0.3
