"""A whole chunk on the kernels, under Triton's interpreter: the fused network on them gives the reference's actions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import SMALL, small_policy
from torch import Tensor

from vlapack.bench.synthetic import synthetic_policy
from vlapack.ops.triton import tiles
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Denoise, Pi0
from vlapack.pi0.fused import products
from vlapack.pi0.graphs import Runner
from vlapack.pi0.recorder import Recorder
from vlapack.recipe.presets import preset


def tiny(variant: str) -> Pi0Config:
    parts = {name: replace(getattr(SMALL, name), depth=2) for name in ("vision", "llm", "expert")}
    return replace(SMALL, variant=variant, num_steps=1, max_token_len=16, **parts)


def network(architecture: Pi0Config, recipe: str | None) -> Pi0:
    policy = small_policy(architecture=architecture, discrete_state_input=False)
    return synthetic_policy(policy, None if recipe is None else preset(recipe)).model


def inputs(config: Pi0Config) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    size = config.vision.image_size
    return [
        torch.rand(1, 3, 3, size, size, generator=draw) * 2 - 1,
        torch.tensor([[True, True, False]]),
        torch.randint(0, config.vocab_size, (1, 16), generator=draw),
        torch.arange(16)[None] < 9,
        torch.randn(1, config.action_dim, generator=draw),
        torch.randn(1, config.action_horizon, config.action_dim, generator=draw),
    ]


@pytest.mark.parametrize(
    ("variant", "recipe"), [("pi05", "full"), pytest.param("pi0", "full", marks=pytest.mark.slow), ("pi05", None)]
)
def test_a_chunk_on_the_kernels_is_the_references(
    variant: str, recipe: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = tiny(variant)
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    reference = network(architecture, recipe)
    reference.fuse()
    expected = Runner(reference, Recorder).sample_actions(*inputs(architecture))
    monkeypatch.setenv("VLAPACK_ENGINE", "triton")
    model = network(architecture, recipe)
    assert model.is_fused
    acting = Runner(model, Recorder)
    actions = acting.sample_actions(*inputs(architecture))
    assert acting.how == "graph"
    # An integer on the edge of a step may fall to its other side, and moves others after it.
    assert (actions - expected).abs().max() <= 0.005 * expected.abs().max()


def test_a_chunk_that_is_steered_by_its_derivative_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = tiny("pi05")
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    reference = network(architecture, "full")
    plain = reference.sample_actions(*inputs(architecture))
    expected = reference.sample_actions(*inputs(architecture), step=climbing)
    monkeypatch.setenv("VLAPACK_ENGINE", "triton")
    acting = Runner(network(architecture, "full"), Recorder)
    actions = acting.sample_actions(*inputs(architecture), step=climbing)
    assert acting.how.endswith("(differentiated steps: eager)")
    moved = (expected - plain).norm()
    assert moved > 0.1 * plain.norm()
    assert (actions - expected).norm() <= 0.01 * moved


def climbing(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
    """The velocity, and a fifth of its length in the direction in which it grows."""
    with torch.enable_grad():
        x_t = x_t.detach().requires_grad_()
        velocity = denoise(x_t, t)
        (gradient,) = torch.autograd.grad(velocity.square().sum(), x_t)
    return velocity.detach() + 0.2 * velocity.norm() / gradient.norm() * gradient


def test_few_tokens_are_the_same_number_on_both_sides() -> None:
    assert products.DECODE_TOKENS == tiles.DECODE_TOKENS
