"""Previous actions on their way into the network: each robot's units, moved states, bad values, batches and graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from every_robot import ROBOTS
from small import MIXED, SMALL, TOKENIZER, random_observations, small_policy
from torch import Tensor

from vlapack.bench.synthetic import synthetic_policy
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.policy_config import NormalizationKind, PolicyConfig
from vlapack.errors import InputError
from vlapack.pi0.graphs import Runner
from vlapack.pi0.recorder import Recorder
from vlapack.policy import acting
from vlapack.policy.adapter import Adapter
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import Guidance, RealTime
from vlapack.robots.layouts import layout_of

ALL: tuple[Guidance, ...] = ("lerobot", "vjp", "inpaint")
ARM = ROBOTS["lerobot"].config
CONFIGS = {name: robot.config for name, robot in ROBOTS.items()} | {
    "lerobot, relative": replace(ARM, delta_mask=(True,) * 5 + (False,)),
    "libero, a short mask": small_policy(delta_mask=(True, True, False)),
}


def adapter_of(config: PolicyConfig, kind: NormalizationKind = "quantile", longer: int = 0, **constant: Any) -> Adapter:
    draw = np.random.default_rng(3)

    def statistics(dims: int) -> Statistics:
        low, width = draw.normal(0, 1, dims), draw.uniform(0.2, 3, dims)
        return Statistics(mean=low, std=width, q01=low, q99=low + width)

    actions = statistics(len(config.features.actions) + longer)
    stats = {"state": statistics(config.features.state), "actions": replace(actions, **constant)}
    return Adapter(replace(config, normalization=kind), Normalization(kind, stats), TOKENIZER)


def random_actions(config: PolicyConfig, count: int = 3, batch: int = 2) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 1, (batch, count, len(config.features.actions)))


def states(config: PolicyConfig) -> np.ndarray:
    """The states of two observations, as the network's side of the layout has them."""
    layout = layout_of(config)
    return np.stack([layout.inputs(seen).state for seen in random_observations(2, layout=layout)])


@pytest.mark.parametrize("longer", [0, 3])
@pytest.mark.parametrize("kind", ["quantile", "mean_std"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_robots_actions_come_back_from_the_networks(name: str, kind: NormalizationKind, longer: int) -> None:
    config = CONFIGS[name]
    adapter, actions, state = adapter_of(config, kind, longer), random_actions(config), states(config)
    chunks = adapter.chunks(actions, state, config)
    assert chunks.shape == (2, 3, SMALL.action_dim)
    assert not chunks[..., actions.shape[-1] :].any()
    np.testing.assert_allclose(adapter.actions(chunks, state, config), actions, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_relative_actions_are_seen_from_the_new_state_and_absolute_ones_from_nowhere(name: str) -> None:
    config = CONFIGS[name]
    adapter, actions, state = adapter_of(config), random_actions(config), states(config)
    before, after = (adapter.chunks(actions, seen, config) for seen in (state, state + 0.25))
    moved = np.zeros(SMALL.action_dim, bool)
    moved[: len(config.delta_mask)] = config.delta_mask
    assert (np.abs(before - after)[..., moved] > 1e-3).all()
    np.testing.assert_array_equal(before[..., ~moved], after[..., ~moved])
    np.testing.assert_allclose(adapter.actions(after, state + 0.25, config), actions, rtol=0, atol=1e-12)


def test_neither_padding_nor_a_dimension_that_never_moved_is_guided() -> None:
    config = CONFIGS["droid"]
    low, high = np.zeros(8), np.array([1.0] * 7 + [0.0])
    for adapter in (adapter_of(config, q01=low, q99=high), adapter_of(config, "mean_std", std=high)):
        assert adapter.varying(config).tolist() == [True] * 7 + [False] * 25


@pytest.fixture(scope="module")
def aloha() -> Policy:
    return synthetic_policy(CONFIGS["aloha"])


def noise_of(policy: Policy, count: int = 1) -> list[Tensor]:
    return list(torch.randn(count, *policy.noise_shape, generator=torch.Generator().manual_seed(1)))


def test_a_chunk_goes_on_where_the_robot_will_be_in_its_own_units(aloha: Policy) -> None:
    layout = layout_of(aloha.config)
    first, second = random_observations(2, layout=layout)
    previous = aloha.infer(first, noise=noise_of(aloha)[0])["actions"][1:]
    how = RealTime("inpaint")
    result = aloha.infer(second, previous=previous, delay=2, realtime=how, noise=noise_of(aloha, 2)[1])["actions"]
    np.testing.assert_allclose(result[:2], previous[:2], rtol=0, atol=1e-4)
    assert np.abs(result[2:3] - previous[2:3]).max() > 1e-2


@pytest.mark.parametrize("previous", [None, np.zeros((0, 14))])
def test_a_first_chunk_is_the_policys_own(aloha: Policy, previous: np.ndarray | None) -> None:
    seen, noise = random_observations(1, layout=layout_of(aloha.config))[0], noise_of(aloha)[0]
    found = aloha.infer(seen, noise=noise, previous=previous, execution_horizon=3, realtime=RealTime("vjp"))
    np.testing.assert_array_equal(found["actions"], aloha.infer(seen, noise=noise)["actions"])


@pytest.mark.parametrize("guidance", ALL)
def test_a_batch_of_all_ages_acts_as_one_at_a_time(aloha: Policy, guidance: Guidance) -> None:
    seen, noise = random_observations(3, layout=layout_of(aloha.config)), noise_of(aloha, 3)
    previous = [random_actions(aloha.config, 3, 1)[0], None, random_actions(aloha.config, 2, 1)[0]]
    about: dict[str, list[Any]] = {"previous": previous, "delay": [1, 0, 2], "execution_horizon": [None, 4, 3]}
    batch = aloha.infer_batch(seen, noise=noise, realtime=RealTime(guidance), **about)
    for row, result in enumerate(batch):
        own = {name: values[row] for name, values in about.items()}
        alone = aloha.infer(seen[row], noise=noise[row], realtime=RealTime(guidance), **own)
        np.testing.assert_allclose(result["actions"], alone["actions"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("guidance", ALL)
def test_captured_steps_are_steered_as_eager_ones(monkeypatch: pytest.MonkeyPatch, guidance: Guidance) -> None:
    eager = synthetic_policy(small_policy())
    monkeypatch.setattr(acting, "runner", lambda model: Runner(model, Recorder))
    captured = synthetic_policy(small_policy())
    previous = random_actions(captured.config, 3, 1)[0]
    about: dict[str, Any] = {"previous": previous, "delay": 1, "noise": noise_of(eager)[0]}
    first, second = (
        policy.infer(random_observations(1)[0], realtime=RealTime(guidance), **about) for policy in (eager, captured)
    )
    np.testing.assert_allclose(first["actions"], second["actions"], rtol=1e-4, atol=1e-4)
    assert captured.how == ("graph (differentiated steps: eager)" if guidance == "vjp" else "graph")


@pytest.mark.parametrize("guidance", ["lerobot", "inpaint"])
def test_a_pack_is_steered_without_gradients(guidance: Guidance) -> None:
    pack = synthetic_policy(small_policy(), MIXED)
    previous, seen, noise = random_actions(pack.config, 3, 1)[0], random_observations(1)[0], noise_of(pack)[0]
    plain = pack.infer(seen, noise=noise)["actions"][:2]
    steered = pack.infer(seen, noise=noise, previous=previous, delay=2, realtime=RealTime(guidance))["actions"][:2]
    assert np.abs(steered - previous[:2]).max() < 0.1 < np.abs(plain - previous[:2]).mean()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another robot's": ({"previous": np.zeros((3, 8))}, r"previous: float64 of shape \[3, 8\]; it is \[n, 14\]"),
    "a batch": ({"previous": np.zeros((1, 3, 14))}, r"previous: float64 of shape \[1, 3, 14\]"),
    "more than a chunk": ({"previous": np.zeros((5, 14))}, r"shape \[5, 14\].*at most 4"),
    "text": ({"previous": np.full((3, 14), "x")}, "previous: <U1 of shape"),
    "nan": ({"previous": np.full((3, 14), np.nan)}, "previous: not finite everywhere"),
    "far": ({"previous": np.full((3, 14), 1e60)}, "too far from the statistics"),
    "negative": ({"previous": np.zeros((3, 14)), "delay": -1}, "delay is -1; 3 actions.*0 to 3"),
    "too late": ({"previous": np.zeros((3, 14)), "delay": 4}, "delay is 4; 3 actions.*0 to 3"),
    "of nothing": ({"delay": 1}, "delay is 1 without previous actions"),
    "a float": ({"previous": np.zeros((3, 14)), "delay": 1.0}, "delay is 1.0; it is a number of actions"),
    "horizon": ({"previous": np.zeros((3, 14)), "execution_horizon": 5}, "execution_horizon is 5.*at most a chunk's 4"),
    "short horizon": ({"previous": np.zeros((3, 14)), "delay": 2, "execution_horizon": 1}, "at least the delay, 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_previous_actions_that_cannot_be_meant_are_one_line(aloha: Policy, name: str) -> None:
    given, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        aloha.infer(aloha.example(), **given)
    assert "\n" not in str(caught.value)


def test_a_list_of_another_length_is_named(aloha: Policy) -> None:
    for name, value in (("previous", [None]), ("delay", [0, 0, 0]), ("execution_horizon", [4])):
        with pytest.raises(InputError, match=f"{name}: {len(value)} for 2 observations"):
            aloha.infer_batch([aloha.example()] * 2, **{name: value})
