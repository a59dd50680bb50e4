"""A fused network holds nothing twice, stays the pack that it was, and steps aside where its modules are touched."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch
from live_bytes import LiveBytes
from openpi_golden import PREFIX_INPUTS, Golden, read_golden
from safetensors.torch import save
from small import MIXED, SMALL, small_policy
from torch import Tensor, nn

from vlapack.bench.synthetic import synthetic_policy
from vlapack.linear import PackedLinear
from vlapack.pi0.compiled import make_ready
from vlapack.pi0.flow import Pi0
from vlapack.pi0.fused.merging import Merged, merge
from vlapack.pi0.fused.products import Product
from vlapack.pi0.names import EXPERT
from vlapack.pi0.savings import Savings
from vlapack.recipe.presets import preset

INPUTS = (*PREFIX_INPUTS, "state", "noise")


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read_golden("pi05")


def packed(name: str = "full") -> Pi0:
    return synthetic_policy(small_policy(), MIXED if name == "mixed" else preset(name)).model


def mixed() -> Pi0:
    return packed("mixed")


def held(model: nn.Module) -> dict[int, int]:
    """Bytes of every storage that the modules hold, by its address."""
    return {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for module in model.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None and not tensor.is_meta
    }


def merged(model: Pi0) -> Iterator[Merged]:
    form = model._fused
    assert form is not None
    for stack in (form.vision, form.llm, form.expert):
        for layer in stack.layers:
            for product in layer.products:
                assert product.merged
                yield from product.merged


def stack_group(parts: Merged) -> int:
    return sum(tensor.nbytes for tensor in (parts.weight, parts.weight_scale, parts.bias) if tensor is not None)


def floating() -> Pi0:
    return read_golden("pi05").load()


@pytest.mark.parametrize("make", [packed, mixed, floating])
def test_nothing_is_held_twice(make: Callable[[], Pi0]) -> None:
    model = make()
    before = sum(held(model).values())
    model.fuse()
    after = held(model)
    assert sum(after.values()) <= before
    for parts in merged(model):
        for tensor in (parts.weight, parts.weight_scale, parts.bias):
            assert tensor is None or tensor.untyped_storage().data_ptr() in after


@pytest.mark.parametrize("make", [packed, mixed, floating])
def test_merging_needs_one_group_of_linears_besides(make: Callable[[], Pi0]) -> None:
    with LiveBytes() as bytes_of:
        model = make()
        before = bytes_of.peak["cpu"] = bytes_of.live["cpu"]
        model.fuse()
    largest = max(stack_group(parts) for parts in merged(model))
    assert bytes_of.peak["cpu"] <= before + largest
    assert bytes_of.live["cpu"] <= before
    assert before > 3 * largest  # else this would say nothing


def test_the_state_dict_of_a_fused_pack_is_the_packs() -> None:
    model = packed("everything")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not tensor.is_meta}
    model.fuse()
    after = {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_meta}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    weights = {name: tensor for name, tensor in after.items() if f"{EXPERT}.layers" in name and "weight" in name}
    assert save(weights)  # refuses tensors that share memory or have gaps


@pytest.mark.parametrize("name", ["full", "mixed"])
def test_a_state_dict_is_loaded_into_the_merged_weights(name: str) -> None:
    expert = packed(name).expert
    changed = {name: 2 * tensor if "weight_scale" in name else tensor for name, tensor in expert.state_dict().items()}
    model = packed(name)
    model.fuse()
    model.expert.load_state_dict({name: tensor for name, tensor in changed.items() if not tensor.is_meta}, strict=False)
    expert.load_state_dict({name: tensor for name, tensor in changed.items() if not tensor.is_meta}, strict=False)
    entry, _, gate_up, _ = model._fused.expert.layers[0].products  # type: ignore[union-attr]
    attention, mlp = expert.layers[0].self_attn, expert.layers[0].mlp  # type: ignore[union-attr]
    assert torch.equal(gate_up.merged[0].weight_scale[0::2], mlp.gate_proj.weight_scale)  # type: ignore[index, union-attr]
    values = attention.v_proj.weight_scale  # type: ignore[union-attr]
    assert torch.equal(entry.merged[-1].weight_scale[-len(values) :], values)  # type: ignore[arg-type, index]


def _moved(model: Pi0) -> Pi0:
    return model.to(torch.float64).to(torch.float32)


def _pickled(model: Pi0) -> Pi0:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("copied", [copy.deepcopy, _pickled, _moved])
@pytest.mark.parametrize("name", ["full", "llm", "mixed"])
def test_what_leaves_is_plain_and_gives_the_same_actions(copied: Callable[[Pi0], Pi0], name: str) -> None:
    model = packed(name)
    inputs = _inputs()
    expected = model.sample_actions(*inputs)
    model.fuse()
    other = copied(model)
    assert not other.is_fused
    assert torch.equal(other.sample_actions(*inputs), expected)


def test_a_fused_policy_goes_to_a_spawned_process() -> None:
    policy = synthetic_policy(small_policy(), preset("full"))
    policy.model.fuse()
    process = get_context("spawn").Process(target=policy.infer, args=(policy.example(),))
    process.start()
    process.join()
    assert process.exitcode == 0


def _inputs() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [
        torch.rand(1, 3, 3, 28, 28, generator=draw),
        torch.ones(1, 3, dtype=torch.bool),
        torch.randint(0, 512, (1, 40), generator=draw),
        torch.ones(1, 40, dtype=torch.bool),
        torch.zeros(1, 32),
        torch.randn(1, SMALL.action_horizon, 32, generator=draw),
    ]


@pytest.mark.parametrize("name", ["q_proj", "v_proj"])
def test_a_linear_of_either_product_of_a_layer_that_gets_another_weight_is_seen(name: str) -> None:
    model = packed("mixed")
    inputs = _inputs()
    model.fuse()
    linear = model.llm.layers[0].self_attn.get_submodule(name)  # type: ignore[union-attr]
    linear._buffers["weight_scale"] = 2 * linear.weight_scale  # type: ignore[assignment, operator]
    after = model.sample_actions(*inputs)
    assert not model.is_fused
    model.fuse()
    torch.testing.assert_close(model.sample_actions(*inputs), after, rtol=0, atol=0.01)


def test_a_layer_that_was_moved_alone_is_seen(golden: Golden) -> None:
    model = golden.load()
    model.fuse()
    model.expert.layers[0].to(torch.float64).to(torch.float32)
    batch = [golden.batches["libero"][name] for name in INPUTS]
    torch.testing.assert_close(model.sample_actions(*batch), golden.load().sample_actions(*batch), rtol=1e-5, atol=1e-5)
    assert not model.is_fused


def test_a_hook_sees_its_module_run_and_the_fused_form_comes_back(golden: Golden) -> None:
    model, seen = golden.load(), []
    batch = [golden.batches["libero"][name] for name in INPUTS]
    model.fuse()
    expected = model.sample_actions(*batch)
    handle = model.expert.layers[1].self_attn.q_proj.register_forward_pre_hook(lambda *_: seen.append(1))  # type: ignore[union-attr]
    torch.testing.assert_close(model.sample_actions(*batch), expected, rtol=1e-5, atol=1e-5)
    assert len(seen) == model.config.num_steps
    handle.remove()
    assert torch.equal(model.sample_actions(*batch), expected)
    assert len(seen) == model.config.num_steps


class Doubled(nn.Module):
    """Stands in place of a linear."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.linear(x)


def _behind_its_back(model: Pi0, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


@pytest.mark.parametrize("put", [Pi0.set_submodule, _behind_its_back])
def test_a_module_that_is_replaced_is_not_left_out(golden: Golden, put: Callable[..., None]) -> None:
    name = f"{EXPERT}.layers.0.mlp.down_proj"
    batch = [golden.batches["libero"][name] for name in INPUTS]
    model, plain = golden.load(), golden.load()
    model.fuse()
    before = model.sample_actions(*batch)
    for one in (model, plain):
        put(one, name, Doubled(one.get_submodule(name)))
    torch.testing.assert_close(model.sample_actions(*batch), plain.sample_actions(*batch), rtol=1e-5, atol=1e-5)
    assert not model.is_fused
    model.fuse()  # the wrapper runs by itself
    after = model.sample_actions(*batch)
    torch.testing.assert_close(after, plain.sample_actions(*batch), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)


def test_gradients_and_autocast_go_through_the_modules(golden: Golden) -> None:
    model, plain = golden.load(), golden.load()
    batch = [golden.batches["libero"][name] for name in INPUTS]
    model.fuse()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = model.sample_actions(*batch), plain.sample_actions(*batch)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-2)  # but for the Euler steps
    noise = batch[5].clone().requires_grad_()
    prefix = model.embed_prefix(*batch[:4])
    model.denoise_step(prefix, batch[4], noise, torch.ones(len(noise))).sum().backward()
    assert noise.grad is not None


@pytest.mark.parametrize("saving", ["static_cache", "fused_attention"])
def test_a_network_without_the_savings_that_fusing_builds_on_stays_plain(golden: Golden, saving: str) -> None:
    model = golden.load(savings=Savings().without(saving))
    model.fuse()
    assert not model.is_fused


@pytest.mark.parametrize("saving", ["last_layer", "prefix_once", "time_table"])
def test_other_savings_may_be_off(golden: Golden, saving: str) -> None:
    savings = Savings().without(saving)
    model, plain = golden.load(savings=savings), golden.load(savings=savings)
    batch = [golden.batches["libero"][name] for name in INPUTS]
    model.fuse()
    torch.testing.assert_close(model.sample_actions(*batch), plain.sample_actions(*batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("engine", "fused"), [("triton", True), ("cpu", False), ("reference", False)])
def test_networks_are_fused_for_tritons_engine_alone(
    golden: Golden, monkeypatch: pytest.MonkeyPatch, engine: str, fused: bool
) -> None:
    monkeypatch.setattr("vlapack.pi0.compiled.engine.active", lambda device: engine)
    model, compiled = (golden.load(savings=Savings().without("time_table")) for _ in range(2))
    make_ready(model)
    assert model.is_fused == fused
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/nowhere")  # else it is set for the process
    make_ready(compiled, compile=True)
    assert not compiled.is_fused


def linear(outputs: int, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    return nn.Linear(16, outputs, bias=bias, dtype=dtype).requires_grad_(False)


def test_linears_of_one_kind_become_views_of_one_weight() -> None:
    linears = [linear(4), linear(2), linear(3)]
    weights = [one.weight.clone() for one in linears]
    x = torch.randn(5, 16)
    outputs = [one(x) for one in linears]
    (merged,) = merge(linears)
    assert torch.equal(merged.weight, torch.cat(weights))
    assert all(torch.equal(one.weight, weight) for one, weight in zip(linears, weights, strict=True))
    assert all(one.weight.untyped_storage().data_ptr() == merged.weight.data_ptr() for one in linears)
    torch.testing.assert_close(torch.cat(Product(*linears).outputs(x), 1), torch.cat(outputs, 1))


@pytest.mark.parametrize("other", [linear(4, bias=False), linear(4, dtype=torch.bfloat16)], ids=["no bias", "bf16"])
def test_neighbors_of_one_kind_are_merged_whatever_stands_beside(other: nn.Module) -> None:
    first, second = linear(2), linear(3)
    for linears, sizes in (((other, first, second), [(4,), (2, 3)]), ((first, other, second), [(2,), (4,), (3,)])):
        assert [one.sizes for one in merge(linears)] == sizes


@pytest.mark.parametrize(("bits", "sizes"), [("q", 2), ("k", 3), ("v", 2), ("kv", 2), ("qk", 2), ("qkv", 1)])
def test_packed_neighbors_with_the_same_bits_are_one_product(bits: str, sizes: int) -> None:
    recipe = replace(preset("full-w4"), overrides=((rf"self_attn\.[{bits}]_proj$", 8),))
    model = synthetic_policy(small_policy(), recipe).model
    inputs = _inputs()
    model.fuse()
    attention = model.llm.layers[0].self_attn
    linears = [getattr(attention, f"{name}_proj") for name in "qkv"]
    entry = model._fused.llm.layers[0].products[0]  # type: ignore[union-attr]
    assert len(entry.merged) == sizes
    x = entry.ready(torch.randn(5, SMALL.llm.width))
    expected = [one(x) for one in linears]
    assert all(torch.equal(mine, its) for mine, its in zip(entry.outputs(x), expected, strict=True))
    assert torch.equal(entry.finished(x), torch.cat(expected, dim=1))
    assert model.sample_actions(*inputs).isfinite().all()


@pytest.mark.parametrize(
    "linears",
    [(linear(4), nn.Sequential(linear(4))), (nn.Sequential(linear(4)),)],
    ids=["a wrapper beside", "a wrapper"],
)
def test_a_wrapper_is_not_merged(linears: tuple[nn.Module, ...]) -> None:
    assert merge(linears) == ()
    x = torch.randn(5, 16)
    expected = [one(x) for one in linears]
    assert all(torch.equal(mine, its) for mine, its in zip(Product(*linears).outputs(x), expected, strict=True))


def test_the_cpus_layout_is_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", "")
    model = packed()
    layer = model.expert.layers[0]
    attention = layer.self_attn  # type: ignore[union-attr]
    linears = (attention.q_proj, attention.k_proj)
    prepared = isinstance(linears[0], PackedLinear) and linears[0].weight_prepared is not None
    assert (merge(linears) == ()) == prepared
    inputs = _inputs()
    expected = model.sample_actions(*inputs)
    model.fuse()
    torch.testing.assert_close(model.sample_actions(*inputs), expected, rtol=0, atol=0.01)
