"""The derivative of a packed policy's velocity by its actions, against a float64 copy at the packed run's point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from dequantized import doubled, in_float64
from small import SMALL, small_policy
from torch import Tensor

from vlapack.bench.synthetic import synthetic_policy
from vlapack.linear import PackedLinear
from vlapack.ops import engine
from vlapack.pi0.compiled import compile_network
from vlapack.pi0.flow import Denoise, Pi0
from vlapack.pi0.prefix import Prefix
from vlapack.pi0.savings import Savings
from vlapack.recipe.presets import preset

RECIPES = {
    "full": preset("full"),
    "everything": preset("everything"),
    "groups and row rotations": replace(preset("full-w4"), group_size=32, row_rot="restore"),
    "4-bit activations": replace(preset("full"), act_bits=4),
    "float activations": replace(preset("full"), act_bits=16),
}
ENGINES = ("reference", *(("cpu",) if engine.kernels is not None else ()))


@pytest.fixture(params=ENGINES)
def any_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VLAPACK_ENGINE", request.param)
    return str(request.param)


def packed(recipe: str, variant: str = "pi05", dtype: torch.dtype = torch.float32, depth: int = 2) -> Pi0:
    llm, expert = replace(SMALL.llm, depth=depth), replace(SMALL.expert, depth=depth)
    architecture = replace(SMALL, variant=variant, llm=llm, expert=expert)
    policy = small_policy(architecture=architecture, discrete_state_input=False)
    # Without the table, which would be made of weights that are too large.
    model = synthetic_policy(policy, RECIPES[recipe], dtype=dtype, savings=Savings().without("time_table")).model
    for layer in model.modules():
        if isinstance(layer, PackedLinear) and layer.weight_bits == 8:
            layer.weight_scale /= 16  # as large as weights of 4 bits: a saturated attention has no derivative
    return model


def observed(model: Pi0) -> tuple[Prefix, Tensor, Tensor, Tensor]:
    """A prefix of two observations, one of which has fewer cameras; their states, actions in flow, and time."""
    config, draw = model.config, torch.Generator().manual_seed(0)
    images = torch.rand(2, config.num_cameras, 3, *[config.vision.image_size] * 2, generator=draw) * 2 - 1
    tokens = torch.randint(0, config.vocab_size, (2, 9), generator=draw)
    cameras = torch.arange(config.num_cameras) < torch.tensor([[3], [2]])
    with torch.no_grad():
        prefix = model.embed_prefix(images, cameras, tokens, torch.ones(2, 9, dtype=torch.bool))
    state = torch.randn(2, config.action_dim, generator=draw)
    x_t = torch.randn(2, config.action_horizon, config.action_dim, generator=draw)
    return prefix, state, x_t, torch.full((2,), 1.0)


def derivative(model: Pi0, prefix: Prefix, point: Sequence[Tensor], way: Tensor) -> tuple[Tensor, Tensor]:
    """The velocity at (state, x_t, t), and its derivative by x_t along `way`."""
    state, x_t, t = point
    x_t = x_t.clone().requires_grad_()
    velocity = model.denoise_step(prefix, state, x_t, t)
    (found,) = torch.autograd.grad(velocity, x_t, way.to(velocity.dtype))
    return velocity.detach(), found


@pytest.mark.parametrize("variant", ["pi05", "pi0"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_it_is_that_of_a_float64_copy_at_the_same_point(
    any_engine: str, recipe: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, outputs = packed(recipe, variant), {}
    prefix, *rest = observed(model)
    way = torch.randn(rest[1].shape, generator=torch.Generator().manual_seed(1))
    watched = [
        module.register_forward_hook(lambda _, __, y, name=name: outputs.__setitem__(name, y.detach()))
        for name, module in model.named_modules()
        if isinstance(module, PackedLinear)
    ]
    velocity, found = derivative(model, prefix, rest, way)
    for hook in watched:
        hook.remove()
    assert outputs
    assert not any(".paligemma." in name for name in outputs)

    twin = in_float64(model, outputs)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    exact, expected = derivative(twin, doubled(prefix), [one.double() for one in rest], way.double())
    assert expected.dtype == torch.float64
    assert (velocity - exact).norm() <= 1e-5 * exact.norm()
    assert (found - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.parametrize("recipe", ["full", "everything"])
def test_in_bf16_it_is_finite_and_near_fp32s(any_engine: str, recipe: str) -> None:
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        model = packed(recipe, dtype=dtype)
        prefix, *rest = observed(model)
        way = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(1))
        found.append(derivative(model, prefix, rest, way)[1].flatten())
    assert found[0].isfinite().all()
    assert torch.cosine_similarity(*found, dim=0) >= 0.98


def test_a_guided_chunk_runs_the_plain_modules_and_keeps_no_graph(any_engine: str) -> None:
    model = packed("full")
    prefix, state, noise, _ = observed(model)
    assert model.is_fused == (any_engine == "cpu")
    seen = []

    def guided(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        assert not x_t.requires_grad
        with torch.enable_grad():
            x_t = x_t.clone().requires_grad_()
            velocity = denoise(x_t, t)
            (gradient,) = torch.autograd.grad(velocity.square().sum(), x_t)
        seen.append(gradient)
        return velocity - 1e-3 * gradient  # with its graph, which must end here

    with torch.no_grad():  # as `sample_actions` has it
        actions = model.integrate(prefix, state, noise, step=guided)
    assert not actions.requires_grad
    assert len(seen) == model.config.num_steps
    assert all(bool(gradient.abs().amax((1, 2)).min() > 0) for gradient in seen)
    assert not any(tensor.requires_grad for past in prefix.layers for tensor in past[:2])
    assert all(value.grad is None for value in (*model.parameters(), *model.buffers()))


def test_a_differentiated_step_compiles_without_a_break(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **options: torch_compile(*args, **options, backend="aot_eager"))
    torch.compiler.reset()
    plain, compiled = packed("full", depth=1), packed("full", depth=1)
    prefix, *rest = observed(plain)
    way = torch.randn(rest[1].shape, generator=torch.Generator().manual_seed(1))
    compile_network(compiled)
    condition = plain.conditions()[:1]
    found = []
    for model in (plain, compiled):
        x_t = rest[1].clone().requires_grad_()
        velocity = model.velocity(prefix, rest[0], x_t, condition)
        found.append(torch.autograd.grad(velocity, x_t, way)[0])
    torch.testing.assert_close(*found)
