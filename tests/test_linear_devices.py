"""A packed layer is laid out for the engine of its device: when it is made, when it is moved, and when it arrives."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest
import torch
from fake_gpu import interpret
from torch import nn

from vlapack.linear import PackedLinear
from vlapack.methods.round import round_weight
from vlapack.ops import engine, layouts
from vlapack.ops.int4 import pack_int4

N, K = 24, 40
META = torch.device("meta")


def built(bits: int, act_bits: int = 8) -> PackedLinear:
    q, scale = round_weight(torch.randn(N, K, generator=torch.Generator().manual_seed(0)), bits)
    tensors = {"weight_scale": scale, "permutation": torch.arange(K).flip(0).to(torch.uint16), "bias": torch.ones(N)}
    if bits == 4:
        tensors |= {"weight_packed": pack_int4(q), "weight_shape": torch.tensor([N, K])}
    else:
        tensors["weight"] = q
    return PackedLinear.from_tensors(tensors, weight_bits=bits, act_bits=act_bits)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What the stand-in for Triton's kernels was called for; CPU tensors run on it."""
    return interpret(monkeypatch)


@pytest.mark.parametrize("act_bits", [8, 16])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_layer_is_laid_out_for_triton_and_leaves_in_the_packs_names(
    bits: int, act_bits: int, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = built(bits, act_bits), torch.randn(2, 3, K)
    assert layouts.engine_of(layer.weight_prepared) == "triton"
    y = layer(x)
    assert calls["int_linear" if act_bits == 8 else "float_linear"] == 1
    sent, state = pickle.dumps(layer), layer.state_dict()
    assert torch.equal(copy.deepcopy(layer)(x), y)
    again = built(bits, act_bits)
    again.load_state_dict(state)
    assert torch.equal(again(x), y)
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    plain = built(bits, act_bits)
    assert torch.equal(plain(x), y)
    assert torch.equal(pickle.loads(sent)(x), y)
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in state.items())


@pytest.mark.parametrize("act_bits", [8, 16])
def test_a_derivative_stays_on_the_engine(act_bits: int, calls: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def derivative(layer: PackedLinear) -> torch.Tensor:
        x = torch.ones(3, K, requires_grad=True)
        (found,) = torch.autograd.grad(layer(x).square().sum(), x)
        return found

    found = derivative(built(4, act_bits))
    assert calls["linear_gradient"] == 1
    assert calls["restore"] == 0  # the weight is read as it lies
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    assert torch.allclose(found, derivative(built(4, act_bits)))


@pytest.mark.parametrize("bits", [4, 8])
def test_moving_restores_moves_and_lays_out_again(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second device here, so meta plays the card: its engine is triton's stand-in."""
    monkeypatch.delenv("VLAPACK_ENGINE", raising=False)
    here = engine.active()
    layer = built(bits)
    expected = layer.state_dict()
    calls = interpret(monkeypatch)
    monkeypatch.setattr(engine, "active", lambda device: "triton" if device == META else here)
    model = nn.Sequential(layer).to(META)
    assert layouts.engine_of(layer.weight_prepared) == "triton"
    assert {buffer.device for buffer in model.buffers()} == {META}
    assert calls == {"prepare": 1}
    monkeypatch.setattr(layouts, "restore", lambda *_: expected[layer.stored_name].to(META))  # meta has no values
    assert {name: tensor.shape for name, tensor in layer.state_dict().items() if tensor.device == META} == {
        name: tensor.shape for name, tensor in expected.items() if name != "weight_shape"
    }
    model.to_empty(device="cpu")
    if here == "cpu":
        assert layouts.engine_of(layer.weight_prepared) == "cpu"
    else:
        assert layer.weight_prepared is None
    model.load_state_dict({f"0.{name}": tensor for name, tensor in expected.items()})
    x = torch.randn(3, K)
    monkeypatch.undo()
    assert torch.equal(layer(x), built(bits)(x))


def test_a_cast_or_a_move_to_where_it_is_leaves_the_layout(calls: Counter[str]) -> None:
    layer = built(4)
    prepared = layer.weight_prepared
    layer.to("cpu").to(torch.bfloat16).float()
    assert layer.weight_prepared is prepared
    assert calls == {"prepare": 1}
    assert layer.weight_scale.dtype == torch.float32
