"""The measurement: what it predicts is what happens, as far as first order goes, and the network is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import random_observations
from torch import nn

from vlapack.pi0.savings import Savings
from vlapack.policy.policy import Policy
from vlapack.tune.sensitivity import Probe, probing, sample

SIZES = {  # of the error that each gets: large enough for fp32, small enough for first order
    "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers.0.mlp.fc1": 5e-2,
    "paligemma_with_expert.paligemma.model.language_model.layers.1.self_attn.v_proj": 2e-3,
    "paligemma_with_expert.gemma_expert.model.layers.0.mlp.down_proj": 2e-3,
    "paligemma_with_expert.gemma_expert.model.layers.1.input_layernorm.dense": 2e-3,
    "action_out_proj": 2e-3,
    "paligemma_with_expert.paligemma.model.language_model.embed_tokens": 2e-3,
}
LAYERS = list(SIZES)


class Shifted(nn.Module):
    """A module with an error of its own, of known size."""

    def __init__(self, inner: nn.Module, size: float) -> None:
        super().__init__()
        self.inner, self.size = inner, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y + self.size * torch.cos(torch.arange(y.shape[-1])) * y.abs()


@pytest.fixture(scope="module")
def policy(random_checkpoint: Path) -> Policy:
    return Policy.from_pretrained(random_checkpoint, savings=Savings(time_table=False))


def test_each_sum_is_the_change_of_the_chunk_in_its_direction(policy: Policy) -> None:
    model, inputs = policy.model, policy.observe(random_observations(1)[0])
    draw = torch.Generator().manual_seed(0)
    noise, directions = torch.randn(1, 4, 32, generator=draw), torch.randn(3, 4, 32, generator=draw)
    shifted = {name: {4: Shifted(model.get_submodule(name), size)} for name, size in SIZES.items()}
    with probing(model, shifted) as probes:
        chunk, sums = sample(model, probes, inputs, noise, directions)
    float_chunk = model.sample_actions(*inputs.network, noise)
    torch.testing.assert_close(chunk, float_chunk, rtol=0, atol=0)
    for number, (name, largest) in enumerate(SIZES.items()):
        original = model.get_submodule(name)
        chunks = []
        for size in (largest, -largest):  # what is left of the difference is of third order
            model.set_submodule(name, Shifted(original, size))
            chunks.append(model.sample_actions(*inputs.network, noise))
        model.set_submodule(name, original)
        truth = (directions * (chunks[0] - chunks[1]) / 2).sum((1, 2)).double()
        assert float((sums[:, number] - truth).norm() / truth.norm()) < 0.05, name


def test_choices_are_noted_in_their_order_and_start_anew(policy: Policy) -> None:
    torch.manual_seed(0)
    model, inputs = policy.model, policy.observe(random_observations(1)[0])
    noise, directions = torch.randn(1, 4, 32), torch.randn(2, 4, 32)
    name = LAYERS[2]
    inner = model.get_submodule(name)
    with probing(model, {name: {4: Shifted(inner, 4e-3), 8: Shifted(inner, 1e-3)}}) as probes:
        _, first = sample(model, probes, inputs, noise, directions)
        _, again = sample(model, probes, inputs, noise, directions)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    torch.testing.assert_close(first[:, 0], 4 * first[:, 1], rtol=0.02, atol=0)


def test_an_error_leaves_the_network_as_it_was(policy: Policy) -> None:
    model = policy.model
    before = dict(model.named_modules())

    def fail() -> None:
        with probing(model, {LAYERS[0]: {4: model.get_submodule(LAYERS[0])}}):
            assert isinstance(model.get_submodule(LAYERS[0]), Probe)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert dict(model.named_modules()) == before
