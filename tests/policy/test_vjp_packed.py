"""The paper's guidance of a pack: as the dequantized network's own derivative in float64 guides it."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from dequantized import doubled, in_float64
from small import random_observations, small_policy
from torch import Tensor

from vlapack.bench.synthetic import synthetic_policy
from vlapack.linear import PackedLinear
from vlapack.ops import engine
from vlapack.pi0.savings import Savings
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import Guidance, RealTime
from vlapack.recipe.presets import preset

ENGINES = ("reference", *(("cpu",) if engine.kernels is not None else ()))
DELAY, LEFT, HORIZON, DIMS = 1, 3, 4, 7
SEEN = random_observations(1)[0]
PREVIOUS = np.random.default_rng(5).normal(0, 0.5, (LEFT, DIMS))


@pytest.fixture(params=ENGINES)
def pack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Policy:
    monkeypatch.setenv("VLAPACK_ENGINE", request.param)
    policy = synthetic_policy(small_policy(), preset("full"), savings=Savings().without("time_table"))
    for layer in policy.model.modules():
        if isinstance(layer, PackedLinear) and layer.weight_bits == 8:
            layer.weight_scale /= 16  # as large as weights of 4 bits: a saturated attention has no derivative
    return policy


def guided(policy: Policy, guidance: Guidance, noise: Tensor) -> np.ndarray:
    how = RealTime(guidance, "exp", 5.0)
    actions: np.ndarray = policy.infer(SEEN, noise=noise, previous=PREVIOUS, delay=DELAY, realtime=how)["actions"]
    return actions


def test_a_packs_chunk_is_guided_by_the_derivative_of_its_dequantized_network(
    pack: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, noise = pack.model, torch.randn(HORIZON, 32, generator=torch.Generator().manual_seed(2))
    outputs: dict[str, list[Tensor]] = defaultdict(list)
    points: list[Tensor] = []
    hooks = [model.action_in_proj.register_forward_pre_hook(lambda _, given: points.append(given[0].detach()))]
    for name, module in model.expert.named_modules(prefix="paligemma_with_expert.gemma_expert.model"):
        if isinstance(module, PackedLinear):
            hooks.append(module.register_forward_hook(lambda _, __, y, name=name: outputs[name].append(y.detach())))
    found = guided(pack, "vjp", noise)
    for hook in hooks:
        hook.remove()
    assert len(points) == 10
    assert outputs
    assert np.isfinite(found).all()
    assert np.abs(found - guided(pack, "lerobot", noise)).max() > 0.01
    # Gradients go to the actions alone; weights that stayed float keep none.
    assert all(value.grad is None for value in (*model.parameters(), *model.buffers()))

    inputs = pack.observe(SEEN)
    tail = pack.tail(inputs, PREVIOUS, DELAY)
    assert tail is not None
    target = torch.zeros(1, HORIZON, 32, dtype=torch.float64)
    target[:, :LEFT] = tail.actions
    # The soft rows are 2/3 and 1/3 on their way; only the robot's dimensions are pulled.
    weights = torch.zeros_like(target)
    for row, pull in enumerate([1.0, *(w * math.expm1(w) / math.expm1(1) for w in (2 / 3, 1 / 3))]):
        weights[:, row, :DIMS] = pull
    with torch.no_grad():
        prefix = doubled(model.embed_prefix(*inputs.network[:4]))
        conditions = model.conditions().double()
    chunk = noise[None].double()
    with monkeypatch.context() as patched:
        patched.setattr(Tensor, "float", Tensor.double)
        for step, point in enumerate(points):
            t = 1 - step / 10
            twin = in_float64(model, {name: each[step] for name, each in outputs.items()})
            x = point.double().requires_grad_()
            velocity = twin.velocity(prefix, inputs.state.double(), x, conditions[step][None])
            heading = x - t * velocity
            (pull,) = torch.autograd.grad(heading, x, ((target - heading) * weights).detach())
            pull[..., DIMS:] = 0
            strength = min(5.0, (t**2 + (1 - t) ** 2) / (t * (1 - t))) if step else 5.0
            chunk = chunk - 0.1 * (velocity.detach() - strength * pull)
    expected = pack.robot_actions(chunk.numpy(), inputs.robot_state)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= 1e-5
