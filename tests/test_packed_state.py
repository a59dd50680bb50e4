"""What leaves the process of a packed layer is the pack's own: state dicts, pickles and copies, on every engine."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlapack.checkpoints import open_checkpoint
from vlapack.linear import PackedLinear
from vlapack.methods.round import round_weight
from vlapack.ops import engine
from vlapack.ops.int4 import pack_int4
from vlapack.packing.make import make_pack
from vlapack.policy.policy import Policy
from vlapack.recipe.recipe import Recipe

N, K = 40, 24
ENGINES = engine.available()


def stored(bits: int, seed: int = 0) -> dict[str, Tensor]:
    """What a pack stores for a layer with a permutation and a bias."""
    generator = torch.Generator().manual_seed(seed)
    q, scale = round_weight(torch.randn(N, K, generator=generator), bits)
    permutation = torch.randperm(K, generator=generator).to(torch.uint16)
    tensors = {"weight_scale": scale, "permutation": permutation, "bias": torch.randn(N, generator=generator)}
    if bits == 4:
        return tensors | {"weight_packed": pack_int4(q), "weight_shape": torch.tensor([N, K])}
    return tensors | {"weight": q}


def built(bits: int, seed: int = 0) -> PackedLinear:
    return PackedLinear.from_tensors(stored(bits, seed), weight_bits=bits)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ENGINES)
def test_a_state_dict_is_what_a_pack_stores_on_every_engine(
    name: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", name)
    layer = built(bits)
    assert same(layer.state_dict(), stored(bits))
    assert {key.removeprefix("0.") for key in nn.Sequential(layer).state_dict()} == stored(bits).keys()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("into", ENGINES)
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_loads_on_every_engine(
    into: str, bits: int, assign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(3, K, generator=torch.Generator().manual_seed(1))
    wanted = built(bits, seed=7)
    monkeypatch.setenv("VLAPACK_ENGINE", into)
    model = nn.Sequential(built(bits))
    model.load_state_dict({f"0.{name}": tensor for name, tensor in stored(bits, seed=7).items()}, assign=assign)
    assert torch.equal(model(x), wanted(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"weight": torch.randn(N, K)}, r"weight: must be torch.int8 \[40, 24\].*float32"),
        (
            lambda state: state | {"weight_scale": state["weight_scale"].bfloat16()},
            "weight_scale: must be torch.float32",
        ),
        (lambda state: state | {"permutation": state["permutation"].int()}, "permutation: must be torch.uint16"),
        (lambda state: state | {"weight_shape": torch.tensor([K, N])}, r"the layer is \[40, 24\]"),
        (lambda state: state | {"weight_prepared": torch.zeros(1)}, "weight_prepared"),
        (lambda state: {name: state[name] for name in state if name != "permutation"}, "Missing key.*permutation"),
        (lambda state: state | {"smooth": torch.ones(K)}, "Unexpected key.*smooth"),
    ],
)
def test_what_is_not_the_layers_is_refused_and_never_cast(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    layer = built(8)
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        layer.load_state_dict(change(stored(8)))


def through_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def through_torch(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("travel", [through_pickle, through_torch, copy.deepcopy])
def test_layers_survive_travel_and_go_to_another_engine(
    travel: Callable[[Any], Any], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(3, K, generator=torch.Generator().manual_seed(1))
    layer = built(bits)
    arrived = travel(
        nn.ModuleList([layer, PackedLinear.from_tensors(stored(bits), weight_bits=bits, inputs=layer.inputs)])
    )
    assert arrived[0].inputs is arrived[1].inputs
    assert arrived[0].inputs.permutation.dtype == torch.uint16
    assert torch.equal(arrived[0](x), layer(x))
    assert same(arrived[0].state_dict(), stored(bits))
    assert (arrived[0].weight_prepared is None) == (layer.weight_prepared is None)
    if travel is through_pickle:
        sent = pickle.dumps(layer)
        monkeypatch.setenv("VLAPACK_ENGINE", "reference")
        assert torch.equal(pickle.loads(sent)(x), layer(x))


def test_a_packed_policy_survives_pickling(random_checkpoint: Path, tmp_path: Path) -> None:
    make_pack(open_checkpoint(random_checkpoint), Recipe(block=8, rounding="rtn"), tmp_path / "pack", None)
    policy = Policy.from_pretrained(tmp_path / "pack")
    arrived = through_pickle(policy)
    assert arrived.infer(policy.example())["actions"].tolist() == policy.infer(policy.example())["actions"].tolist()
    noise = torch.zeros(policy.noise_shape)
    expected = policy.infer(policy.example(), noise=noise)["actions"]
    assert (arrived.infer(policy.example(), noise=noise)["actions"] == expected).all()
    # torch sends tensors to a spawned process through shared memory: none of them may be gone by then.
    process = get_context("spawn").Process(target=policy.infer, args=(policy.example(),))
    process.start()
    process.join()
    assert process.exitcode == 0
