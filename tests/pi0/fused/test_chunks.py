"""The fused network gives the plain one's actions: float to rounding, packed but for integers on the edge of a step.

On the CPU the fused ops are their definitions, so what differs is how torch's products and attention round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from openpi_golden import PREFIX_INPUTS, Golden, read_golden
from small import MIXED, SMALL, random_observations, small_policy
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vlapack.bench.synthetic import synthetic_policy
from vlapack.checkpoints.configs import POLICIES
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Denoise, Pi0
from vlapack.pi0.fused.merging import Merged, merge
from vlapack.pi0.graphs import STEERED, Runner
from vlapack.pi0.init import init_weights
from vlapack.pi0.load import build
from vlapack.pi0.recorder import Recorder
from vlapack.pi0.savings import Savings
from vlapack.policy.inputs import Inputs
from vlapack.recipe.presets import PRESETS, preset
from vlapack.recipe.recipe import Recipe

INPUTS = (*PREFIX_INPUTS, "state", "noise")
RELATIVE = 1e-5
VARIANTS = ("pi0", "pi05")
WHOLE = Savings().without("prompt_padding")


@pytest.fixture(autouse=True)
def _reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in a pack's layout, whose rows can be merged; the CPU's engine has panels."""
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")


@pytest.fixture(scope="module", params=VARIANTS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return read_golden(request.param)


class Integers(TorchDispatchMode):
    """Keeps what enters each integer product, whichever op rounds it."""

    PLACES: ClassVar = {"quantize_activation": 0, "gelu_quantize": 0, "attend_quantize": 0, "norm_quantize": 1}

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if (place := self.PLACES.get(function.overloadpacket.__name__)) is not None:
            self.found.append(result[place])
        return result


def fused(model: Pi0) -> Pi0:
    model.fuse()
    assert model.is_fused
    return model


def drawn(config: Pi0Config, **changes: Any) -> Callable[[], Pi0]:
    """Makes the same float network each time, its weights random."""

    def make() -> Pi0:
        model = build(replace(config, **changes)).to_empty(device="cpu")
        init_weights(model, torch.Generator().manual_seed(1))
        model.requires_grad_(False).tabulate()
        return model

    return make


def observed(config: Pi0Config, batch: int, cameras: int, words: int | None = None) -> list[Tensor]:
    """Inputs of a batch; the first observation has so many cameras and a full prompt, later ones less of both."""
    draw = torch.Generator().manual_seed(batch)
    size, length = config.vision.image_size, config.max_token_len
    row = torch.arange(batch)[:, None]
    image_masks = torch.arange(config.num_cameras) < (cameras - row % 2).clamp(1)
    return [
        torch.rand(batch, config.num_cameras, 3, size, size, generator=draw) * 2 - 1,
        image_masks,
        torch.randint(0, config.vocab_size, (batch, length), generator=draw),
        torch.arange(length) < ((words or length) - 3 * row).clamp(1),
        torch.randn(batch, config.action_dim, generator=draw),
        torch.randn(batch, config.action_horizon, config.action_dim, generator=draw),
    ]


def close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= RELATIVE * theirs.abs().max())


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_a_float_chunk_is_the_plain_one(golden: Golden, batch_name: str) -> None:
    batch = [golden.batches[batch_name][name] for name in INPUTS]
    assert close(fused(golden.load()).sample_actions(*batch), golden.load().sample_actions(*batch))


@pytest.mark.parametrize(("batch", "cameras", "words"), [(1, 1, 5), (1, 3, None), (2, 2, 40), (8, 3, 9)])
@pytest.mark.parametrize("horizon", [4, 50])
@pytest.mark.parametrize("variant", VARIANTS)
def test_float_chunks_of_every_shape(variant: str, horizon: int, batch: int, cameras: int, words: int | None) -> None:
    make = drawn(SMALL, variant=variant, action_horizon=horizon, num_steps=2)
    model = make()
    inputs = observed(model.config, batch, cameras, words)
    assert close(fused(model).sample_actions(*inputs), make().sample_actions(*inputs))


def packed(recipe: Recipe, architecture: Pi0Config, savings: Savings = Savings(), **options: Any) -> Pi0:  # noqa: B008
    policy = small_policy(architecture=architecture, discrete_state_input=False)
    return synthetic_policy(policy, recipe, savings=savings, **options).model


@pytest.mark.parametrize(("name", "variant"), [(name, VARIANTS[i % 2]) for i, name in enumerate(PRESETS)])
def test_a_pack_of_every_preset_is_the_plain_one_but_for_integers_on_an_edge(name: str, variant: str) -> None:
    architecture = replace(POLICIES["tiny_libero"].architecture, variant=variant, num_steps=2)
    model = packed(preset(name), architecture)
    inputs = observed(model.config, 2, 2, 12)
    with Integers() as plain:
        theirs = model.sample_actions(*inputs)
    with Integers() as ours:
        actions = fused(model).sample_actions(*inputs)
    assert [q.shape for q in ours.found] == [q.shape for q in plain.found]
    apart = [(mine.int() - its.int()).abs() for mine, its in zip(ours.found, plain.found, strict=True)]
    # One integer that a last bit moved moves others after it, so the first to differ are the ones that count.
    first = next((difference for difference in apart if difference.any()), torch.zeros(1))
    assert first.max() <= 1
    assert first.count_nonzero() <= max(1, first.numel() // 1000)
    assert (actions - theirs).abs().max() <= 0.005 * theirs.abs().max()


@pytest.mark.parametrize("horizon", [4, 70])
@pytest.mark.parametrize("overrides", [*((f"{one}_proj", 8) for one in "qkv"), *MIXED.overrides], ids="qkv+")
def test_a_layer_of_two_kinds_of_bits_gives_the_unmerged_ones_integers(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, int], horizon: int
) -> None:
    def unmerged(linears: Sequence[nn.Module], **options: Any) -> tuple[Merged, ...]:
        return () if len(linears) > 2 else merge(linears, **options)

    recipe = replace(MIXED, overrides=(overrides,))
    architecture = replace(SMALL, num_steps=2, action_horizon=horizon)
    inputs = observed(architecture, 2, 3)
    with Integers() as ours:
        actions = fused(packed(recipe, architecture, dtype=torch.bfloat16)).sample_actions(*inputs)
    monkeypatch.setattr("vlapack.pi0.fused.products.merge", unmerged)
    with Integers() as theirs:
        expected = fused(packed(recipe, architecture, dtype=torch.bfloat16)).sample_actions(*inputs)
    assert all(torch.equal(mine, its) for mine, its in zip(ours.found, theirs.found, strict=True))
    assert torch.equal(actions, expected)


RECIPES = {
    "8-bit weights": {"weight_bits": 8},
    "groups": {"group_size": 32},
    "float activations": {"act_bits": 16},
    "4-bit activations": {"act_bits": 4},
    "static": {"act_scale": "static"},
    "row rotation": {"row_rot": "restore"},
    "two rotations": {"order": "rotate_permute_rotate"},
    "keys and values of 8 bits": {"overrides": MIXED.overrides},
    "layers of 4, 8 and 16 bits": {"overrides": (("q_proj|gate_proj", 8), ("o_proj|v_proj", 16))},
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize(("variant", "batch"), [("pi05", 1), ("pi0", 5)])
def test_every_kind_of_layer_runs_fused(variant: str, batch: int, changes: dict[str, Any]) -> None:
    model = packed(replace(preset("full"), **changes), replace(SMALL, variant=variant, num_steps=2))
    inputs = observed(model.config, batch, 2, 20)
    theirs = model.sample_actions(*inputs)
    difference = (fused(model).sample_actions(*inputs) - theirs).abs().max()
    assert difference <= 0.01 * theirs.abs().max()


def doubled(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
    return denoise(x_t, t) + 0.1 * denoise(x_t * 0.9, t)


def differentiated(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(denoise(x_t, t).square().sum(), x_t)
    return denoise(x_t.detach(), t) + 1e-3 * gradient


@pytest.mark.parametrize("step", [None, doubled, differentiated])
def test_a_fused_flow_is_steered_as_a_plain_one(golden: Golden, step: Any) -> None:
    batch = [golden.batches["mixed"][name][:1] for name in INPUTS]
    acting = Runner(fused(golden.load()), Recorder)
    assert close(acting.sample_actions(*batch, step=step), golden.load().sample_actions(*batch, step=step))
    assert acting.how == (STEERED if step is differentiated else "graph")


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_a_replayed_fused_chunk_is_the_eager_one(golden: Golden, batch_name: str) -> None:
    """But for float products' last bit, which on some CPUs hangs on how MKL's buffers lie in memory (MKL_CBWR)."""
    batch = [golden.batches[batch_name][name][:2] for name in INPUTS]
    acting, eager = Runner(fused(golden.load()), Recorder), fused(golden.load(savings=WHOLE))
    for _ in range(2):
        torch.testing.assert_close(acting.sample_actions(*batch), eager.sample_actions(*batch), rtol=0, atol=4e-6)
        assert acting.how == "graph"


def test_a_replayed_fused_pack_is_the_eager_one_to_the_bit() -> None:
    policy = synthetic_policy(small_policy(), preset("full"))
    eager = fused(synthetic_policy(small_policy(), preset("full"), savings=WHOLE).model)
    inputs = Inputs.stack([policy.observe(observation) for observation in random_observations(2)])
    noise = torch.randn(2, *policy.noise_shape, generator=torch.Generator().manual_seed(0))
    slots = 32
    assert int(inputs.token_masks.sum(1).max()) in range(slots - 15, slots + 1)
    images, image_masks, tokens, token_masks, state = inputs.network
    expected = eager.sample_actions(images, image_masks, tokens[:, :slots], token_masks[:, :slots], state, noise)
    assert torch.equal(Runner(fused(policy.model), Recorder).sample_actions(*inputs.network, noise), expected)


def test_a_network_in_bf16_is_as_near_to_fp32_as_the_plain_one(golden: Golden) -> None:
    batch = [golden.batches["mixed"][name] for name in INPUTS]
    exact = golden.load().sample_actions(*batch)
    plain = golden.load(torch.bfloat16).sample_actions(*batch)
    ours = fused(golden.load(torch.bfloat16)).sample_actions(*batch)
    assert (ours - exact).abs().mean() <= 1.5 * (plain - exact).abs().mean()


def test_a_pack_in_bf16_is_as_near_to_fp32_as_the_plain_one() -> None:
    # So many tokens that gate and up are one product, rounded once where the plain network rounds three times.
    architecture = replace(SMALL, num_steps=2, action_horizon=50)
    inputs = observed(architecture, 2, 3)
    exact = packed(preset("full"), architecture).sample_actions(*inputs)
    model = packed(preset("full"), architecture, dtype=torch.bfloat16)
    plain = model.sample_actions(*inputs)
    ours = fused(model).sample_actions(*inputs)
    assert (ours - exact).abs().mean() <= 1.5 * (plain - exact).abs().mean()
