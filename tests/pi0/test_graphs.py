"""Captured runs give the actions of eager ones, whatever is padded; what cannot be captured runs eagerly and says so.

There is no GPU here: `Recorder` takes the place of a CUDA graph and asserts that each replay would be one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from openpi_golden import PREFIX_INPUTS, TOLERANCE, Golden
from recorded import Recorded, rows
from small import random_observations, small_policy
from torch import Tensor

from vlapack.bench.synthetic import synthetic_policy
from vlapack.pi0.buffers import Shape
from vlapack.pi0.flow import Pi0
from vlapack.pi0.graphs import Recent, Runner
from vlapack.pi0.recorder import Recorder
from vlapack.pi0.savings import Savings
from vlapack.policy.inputs import Inputs
from vlapack.recipe.presets import preset


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_a_replayed_chunk_is_the_eager_one_to_the_bit(golden: Golden, batch_name: str) -> None:
    model, batch = golden.load(), rows(golden.batches[batch_name], 0, 1)
    acting = Runner(model, Recorder)
    # The network's prompts of 12 slots make one step, so the padded prompt is the whole one.
    whole = golden.load(savings=Savings().without("prompt_padding"))
    for _ in range(2):
        assert torch.equal(acting.sample_actions(**batch), whole.sample_actions(**batch))
        assert acting.how == "graph"


def test_observations_that_pad_a_batch_are_the_first_again(golden: Golden) -> None:
    batch = golden.batches["mixed"]
    whole = golden.load(savings=Savings().without("prompt_padding"))
    three = Runner(golden.load(), Recorder).sample_actions(**rows(batch, 1, 0, 1))
    assert torch.equal(three, whole.sample_actions(**rows(batch, 1, 0, 1, 1))[:3])


@pytest.mark.parametrize("numbers", [(0,), (0, 1), (1, 0, 0)])
@pytest.mark.parametrize("words", [12, 3])
def test_what_is_padded_moves_actions_by_rounding_only(golden: Golden, numbers: tuple[int, ...], words: int) -> None:
    batch = rows(golden.batches["mixed"], *numbers, words=words)
    acting = Runner(golden.load(), Recorder)
    assert (acting.sample_actions(**batch) - golden.load().sample_actions(**batch)).abs().max() <= TOLERANCE


def test_a_pack_in_a_graph_is_the_eager_one_to_the_bit() -> None:
    policy = synthetic_policy(small_policy(), preset("full"))
    whole = synthetic_policy(small_policy(), preset("full"), savings=Savings().without("prompt_padding")).model
    observations = random_observations(3)
    observations[1]["prompt"] = "go on"
    inputs = Inputs.stack([policy.observe(observation) for observation in observations])
    noise = torch.randn(3, *policy.noise_shape, generator=torch.Generator().manual_seed(0))
    captured = Recorded()
    ours = Runner(policy.model, captured).sample_actions(*inputs.network, noise)
    slots = captured.runs[0].outputs.layers[0].length - 2 * policy.config.architecture.vision.num_patches
    images, image_masks, tokens, token_masks, state = (torch.cat((tensor, tensor[:1])) for tensor in inputs.network)
    theirs = whole.sample_actions(
        images, image_masks, tokens[:, :slots], token_masks[:, :slots], state, torch.cat((noise, noise[:1]))
    )
    assert torch.equal(ours, theirs[:3])


def test_pictures_of_uint8_give_the_actions_of_scaled_ones(pi05: Golden) -> None:
    acting, batch = Runner(pi05.load(), Recorder), rows(pi05.batches["libero"], 0)
    pixels = torch.randint(0, 256, batch["images"].shape, dtype=torch.uint8)
    batch["images"] = pixels.to(torch.float32) / 255.0 * 2.0 - 1.0  # as robots.images has it
    expected = acting.sample_actions(**batch)
    assert torch.equal(acting.sample_actions(**{**batch, "images": pixels}), expected)
    assert acting.how == "graph"
    assert torch.equal(acting.sample_actions(**{**batch, "images": pixels}, num_steps=None), expected)


def test_runs_are_captured_once_for_each_shape_and_replayed(pi05: Golden) -> None:
    captured = Recorded()
    acting, batch = Runner(pi05.load(), captured), pi05.batches["libero"]
    for numbers, words, count in (((0,), 5, 2), ((1,), 3, 2), ((0, 1), 5, 4), ((0, 1, 0), 5, 6), ((0, 1, 1, 0), 2, 6)):
        acting.sample_actions(**rows(batch, *numbers, words=words))
        assert len(captured.runs) == count, (numbers, words)
    assert [run.replays for run in captured.runs] == [2, 2, 1, 1, 2, 2]


def test_runs_can_be_captured_before_they_are_needed(pi05: Golden) -> None:
    captured = Recorded()
    acting, batch = Runner(pi05.load(), captured), rows(pi05.batches["libero"], 0)
    acting.prepare(Shape(batch=1, cameras=2, prompt=12, pixels=torch.float32))
    acting.sample_actions(**batch)
    assert [run.replays for run in captured.runs] == [1, 1]


def test_the_shapes_not_used_for_longest_go_first() -> None:
    recent: Recent[int] = Recent(2)
    made = [recent.get_or_make(key, lambda key=key: ord(key)) for key in "abacab"]
    assert made == [ord(key) for key in "abacab"]
    assert list(recent) == ["a", "b"]


def test_a_prompt_is_looked_up_once(pi05: Golden) -> None:
    model = pi05.load()
    looked_up: list[tuple[int, ...]] = []
    acting, batch = Runner(model, Recorder), pi05.batches["libero"]
    acting.sample_actions(**rows(batch, 0))
    model.llm.embed_tokens.register_forward_pre_hook(lambda _, args: looked_up.append(tuple(args[0].shape)))
    acting.sample_actions(**rows(batch, 0))
    acting.sample_actions(**rows(batch, 0, words=2))
    acting.sample_actions(**rows(batch, 0, words=2))
    assert looked_up == [(1, 2)]


def test_actions_are_not_written_over_by_the_next_chunk(pi05: Golden) -> None:
    acting, batch = Runner(pi05.load(), Recorder), pi05.batches["libero"]
    first = acting.sample_actions(**rows(batch, 0))
    kept = first.clone()
    acting.sample_actions(**rows(batch, 1))
    assert torch.equal(first, kept)


def test_prefix_first_takes_some_observations(golden: Golden) -> None:
    model, batch = golden.load(), rows(golden.batches["mixed"], 0, 1)
    with torch.no_grad():
        prefix = model.embed_prefix(*(batch[name] for name in PREFIX_INPUTS))
        both = _velocity(model, prefix, batch)
        first = _velocity(model, prefix.first(1), rows(batch, 0))
    torch.testing.assert_close(first, both[:1], rtol=0, atol=TOLERANCE)


def _velocity(model: Pi0, prefix: Any, batch: dict[str, Tensor]) -> Tensor:
    return model.denoise_step(prefix, batch["state"], batch["noise"], torch.ones(len(batch["noise"])))


@pytest.mark.parametrize("change", ["moved", "replaced"])
def test_a_network_that_changed_is_captured_anew(pi05: Golden, change: str) -> None:
    model, captured, batch = pi05.load(), Recorded(), rows(pi05.batches["libero"], 0)
    model.fuse()
    acting = Runner(model, captured)
    before = acting.sample_actions(**batch)
    if change == "moved":
        model.to(torch.float64).to(torch.float32)
        expected = before
    else:
        linear = model.expert.layers[0].get_submodule("mlp.down_proj")
        model.expert.layers[0].mlp.down_proj = torch.nn.Sequential(linear, torch.nn.Hardtanh(-0.01, 0.01))  # type: ignore[union-attr, assignment]
        expected = model.sample_actions(**batch)
        assert not torch.allclose(expected, before, atol=1e-3)
    count = len(captured.runs)
    torch.testing.assert_close(acting.sample_actions(**batch), expected, rtol=1e-5, atol=1e-5)
    assert acting.how == "graph"
    assert len(captured.runs) == count + 2


def test_a_larger_shape_takes_nothing_from_a_smaller_one_that_was_captured(pi05: Golden) -> None:
    """A fused network keeps one table of positions, which grows; `Recorder` sees a table that is not the captured."""
    model = pi05.load()
    model.fuse()
    acting = Runner(model, Recorder)
    small, large = (rows(pi05.batches["libero"], 0) for _ in range(2))
    small["image_masks"] = small["image_masks"] & torch.tensor([True, False, False])
    before = acting.sample_actions(**small)
    acting.sample_actions(**large)
    model.sample_actions(**large)
    assert torch.equal(acting.sample_actions(**small), before)
    assert acting.how == "graph"
