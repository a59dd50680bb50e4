"""A policy whose network runs as captured graphs acts as the eager one, and says how it runs.

There is no GPU here: `Recorder` takes the place of a CUDA graph and asserts that each replay would be one.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from small import random_observations, small_policy
from torch import Tensor

from vlapack.bench.measurement import chunk
from vlapack.bench.synthetic import synthetic_policy
from vlapack.packing.stages import passages
from vlapack.pi0.flow import Denoise
from vlapack.pi0.graphs import Runner
from vlapack.pi0.recorder import Recorder
from vlapack.policy import acting
from vlapack.policy.policy import Policy


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[Policy, Policy]:
    """The same policy twice: one that captures, and an eager one."""
    eager = synthetic_policy(small_policy())
    monkeypatch.setattr(acting, "runner", lambda model: Runner(model, Recorder))
    return synthetic_policy(small_policy()), eager


def noises(policy: Policy, count: int) -> Tensor:
    return torch.randn(count, *policy.noise_shape, generator=torch.Generator().manual_seed(3))


def assert_close(first: np.ndarray, second: np.ndarray) -> None:
    """Equal but for the rounding that a prompt's padding moves; to the bit is `tests/pi0/test_graphs.py`."""
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def chunks(policy: Policy, observations: Sequence[dict[str, object]]) -> np.ndarray:
    noise = list(noises(policy, len(observations)).numpy())
    return np.stack([result["actions"] for result in policy.infer_batch(observations, noise=noise)])


@pytest.mark.parametrize("count", [1, 2])
def test_graphs_fed_with_raw_pixels_act_as_the_eager_network(pair: tuple[Policy, Policy], count: int) -> None:
    captured, eager = pair
    observations = random_observations(count)
    assert captured.observe(observations[0]).images.dtype == torch.uint8
    assert eager.observe(observations[0]).images.dtype == torch.float32
    assert_close(chunks(captured, observations), chunks(eager, observations))
    assert (captured.how, eager.how) == ("graph", "eager")


def test_many_noises_of_one_observation_read_raw_pixels_too(pair: tuple[Policy, Policy]) -> None:
    observation = random_observations(1)[0]
    found = [policy.infer_noises(observation, noises(policy, 3)) for policy in pair]
    assert_close(*found)


def test_calibration_scales_the_raw_pixels_of_a_policy_that_captures(pair: tuple[Policy, Policy]) -> None:
    observations = random_observations(2)
    captured, eager = (passages(policy, observations, seed=0) for policy in pair)
    assert all(torch.equal(ours.x, theirs.x) for ours, theirs in zip(captured, eager, strict=True))


def test_a_steered_flow_replays_and_is_the_eager_one(pair: tuple[Policy, Policy]) -> None:
    def pulled(denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
        return denoise(x_t, t) - 0.1 * x_t

    found = []
    for policy in pair:
        inputs = policy.observe(random_observations(1)[0])
        found.append(policy.sample(inputs, noises(policy, 1), step=pulled))
    assert_close(*(tensor.numpy() for tensor in found))
    assert pair[0].how == "graph"


def test_graphs_stay_in_their_process_and_the_copy_captures_its_own(pair: tuple[Policy, Policy]) -> None:
    captured, _ = pair
    observations = random_observations(1)
    expected = chunks(captured, observations)
    copy = pickle.loads(pickle.dumps(captured))
    assert copy.acting.graphs is not None
    assert copy.acting.graphs is not captured.acting.graphs
    assert np.array_equal(chunks(copy, observations), expected)


def test_what_was_prepared_is_not_captured_again(pair: tuple[Policy, Policy], monkeypatch: pytest.MonkeyPatch) -> None:
    captured, _ = pair
    made = []

    def count(run: object) -> Recorder:
        made.append(run)
        return Recorder(run)  # type: ignore[arg-type]

    assert captured.acting.graphs is not None
    monkeypatch.setattr(captured.acting.graphs, "_capture", count)
    captured.prepare((1, 2, 3, 4))
    before = len(made)
    assert before >= 6
    example = captured.example()
    for words in ("", " and again"):  # the state in a prompt makes it longer and shorter
        chunks(captured, [{**example, "prompt": example["prompt"] + words}] * 4)
    assert len(made) == before


def test_a_measured_chunk_has_the_times_of_its_graphs(pair: tuple[Policy, Policy]) -> None:
    captured, eager = pair
    found = chunk(captured, captured.example())
    assert set(found["parts"]) == {"prefix", "denoise"}
    assert found["how"] == "graph"
    assert set(chunk(eager, eager.example())["parts"]) == {"vision", "prefix", "denoise"}
