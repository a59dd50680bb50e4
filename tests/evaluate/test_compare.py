"""Comparing policies: the same noise for both, numbers that a plain loop gives too, and a yardstick beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlapack.errors import InputError, WorkError
from vlapack.evaluate.compare import compare, cosines
from vlapack.observations.folder import open_source
from vlapack.observations.frame import Frame
from vlapack.policy.differences import action_differences, deviations, draws
from vlapack.policy.policy import Policy
from vlapack.robots.layouts import LiberoLayout

ROBOT = LiberoLayout()
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def frames(observation_folder: Path) -> list[Frame]:
    return open_source(observation_folder).take(3)


@pytest.fixture(scope="module")
def policy(random_checkpoint: Path) -> Policy:
    return Policy.from_pretrained(random_checkpoint)


class Shifted:
    """A policy that differs from another by a constant, and from one noise to the next not otherwise than it."""

    def __init__(self, policy: Policy, shift: float) -> None:
        self.policy, self.shift = policy, shift
        self.config, self.noise_shape = policy.config, policy.noise_shape

    def infer_noises(self, *arguments: Any) -> np.ndarray:
        return self.policy.infer_noises(*arguments) + self.shift


def test_a_policy_is_its_own_equal_and_another_noise_is_not(policy: Policy, frames: list[Frame]) -> None:
    found = compare(lambda: policy, lambda: policy, frames)
    assert found["deviation"]["max"] < 1e-4 < found["deviation_spread"]["p50"]
    assert found["cosine"] == pytest.approx({"mean": 1.0, "min": 1.0})
    assert found["gripper"]["flips"] == 0
    assert [row["name"] for row in found["dimensions"]] == list(ROBOT.action_names)


def test_a_known_shift_is_measured_in_the_robots_units(policy: Policy, frames: list[Frame]) -> None:
    found = compare(lambda: policy, lambda: Shifted(policy, 0.25), frames)  # type: ignore[arg-type, return-value]
    for row in found["dimensions"]:
        assert row["absolute"] == pytest.approx({"p50": 0.25, "p95": 0.25, "max": 0.25}, rel=1e-4)
        assert row["relative"]["p50"] == pytest.approx(0.25 / row["scale"], rel=1e-4)


def test_noises_together_are_noises_one_at_a_time(policy: Policy, frames: list[Frame]) -> None:
    noise = next(draws(5, (4, 32)))
    together = policy.infer_noises(frames[0].observation, noise)
    for one, chunk in zip(noise, together, strict=True):
        np.testing.assert_allclose(chunk, policy.infer(frames[0].observation, noise=one)["actions"], atol=1e-5)


def test_the_seed_decides_the_noise(policy: Policy, frames: list[Frame]) -> None:
    def spread(seed: int) -> float:
        return float(compare(lambda: policy, lambda: policy, frames, seed=seed)["deviation_spread"]["max"])

    assert spread(1) == spread(1) != spread(2)
    assert torch.equal(next(draws(3, (4, 32)))[:1], next(draws(3, (4, 32)))[:1])


def chunks(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    expected = draw.normal(size=(3, 8, 4, 7)) * [1, 2, 3, 4, 5, 6, 0.5]
    return expected, expected[:, 0] + draw.normal(size=(3, 4, 7)) * 0.1


def test_the_numbers_are_those_of_a_plain_loop() -> None:
    expected, found = chunks()
    document = action_differences(expected, found, NAMES, ROBOT)
    scale = [expected[..., dim].ravel().std() for dim in range(7)]
    for dim, row in enumerate(document["dimensions"]):
        errors = sorted(abs(found[n, h, dim] - expected[n, 0, h, dim]) for n in range(3) for h in range(4))
        assert row["absolute"]["max"] == errors[-1]
        assert row["absolute"]["p50"] == pytest.approx((errors[5] + errors[6]) / 2)
        assert row["relative"]["p95"] == pytest.approx(row["absolute"]["p95"] / scale[dim])
        own = [
            abs(expected[n, s, h, dim] - expected[n, 0, h, dim])
            for n in range(3)
            for s in range(1, 8)
            for h in range(4)
        ]
        assert row["spread"]["max"] == max(own)
    deviations = {}
    for n, name in enumerate(NAMES):
        squares = [((found[n, h, d] - expected[n, 0, h, d]) / scale[d]) ** 2 for h in range(4) for d in range(7)]
        deviations[name] = (sum(squares) / 28) ** 0.5
    assert [row["frame"] for row in document["worst"]] == sorted(NAMES, key=lambda name: -deviations[name])
    assert document["deviation"]["max"] == pytest.approx(max(deviations.values()))


def test_a_frame_with_one_noise_counts_in_the_scale_as_much_as_one_with_eight() -> None:
    expected, found = chunks()
    alike = np.concatenate([expected[:2], np.repeat(expected[2:, :1], 8, axis=1)])
    fewer = [expected[0], expected[1], expected[2, :1]]
    np.testing.assert_allclose(deviations(fewer, found), deviations(alike, found), rtol=1e-12)
    np.testing.assert_array_equal(deviations(fewer, found[:2]), deviations(fewer, found)[:2])


def test_the_cosine_is_torchs_over_the_whole_chunk() -> None:
    expected, found = chunks()
    whole = [torch.from_numpy(one).flatten(1) for one in (expected[:, 0], found)]
    np.testing.assert_allclose(cosines(expected[:, 0], found), torch.cosine_similarity(*whole), rtol=1e-12)
    np.testing.assert_allclose(cosines(found, -3 * found), -1)


def test_chunks_without_a_direction_have_a_cosine_too() -> None:
    zero, one = np.zeros((1, 4, 7)), np.ones((1, 4, 7))
    assert [cosines(*pair).item() for pair in ((zero, zero), (zero, one), (one, zero), (one, one))] == pytest.approx(
        [1, 0, 0, 1]
    )


def test_the_worst_frame_says_which_dimension() -> None:
    expected, found = chunks()
    found[1, :, 3] += 40
    worst = action_differences(expected, found, NAMES, ROBOT)["worst"][0]
    assert (worst["frame"], worst["dimension"]) == ("b", "rx")


def test_gripper_flips_are_counted_and_beside_them_those_of_another_noise() -> None:
    expected, found = chunks()
    expected[..., 6] = 1.0
    expected[:, 4, :, 6] = -1.0  # one noise of the seven others closes
    found[..., 6] = 0.9
    found[2, 1:3, 6] = -0.1
    gripper = action_differences(expected, found, NAMES, ROBOT)["gripper"]
    assert gripper == {"flips": 2, "actions": 12, "rate": 2 / 12, "spread_rate": pytest.approx(1 / 7)}


def test_a_dimension_that_never_moves_has_no_relative_error_and_spoils_no_other() -> None:
    expected, found = chunks()
    whole = action_differences(expected, found, NAMES, ROBOT)
    expected[..., 2], found[..., 2] = 0.0, 0.5
    document = action_differences(expected, found, NAMES, ROBOT)
    assert document["dimensions"][2]["relative"] is None
    assert document["dimensions"][2]["absolute"]["p50"] == 0.5
    assert document["dimensions"][0] == whole["dimensions"][0]
    still = action_differences(np.zeros_like(expected), np.zeros_like(found), NAMES, ROBOT)
    assert still["deviation"]["max"] == 0
    assert still["worst"][0]["dimension"] is None


def test_what_cannot_be_compared_is_refused(policy: Policy, frames: list[Frame]) -> None:
    with pytest.raises(InputError, match="no frames"):
        compare(lambda: policy, lambda: policy, [])
    with pytest.raises(WorkError, match=r"000_base.png are not finite"):
        compare(lambda: policy, lambda: Shifted(policy, float("nan")), frames)  # type: ignore[arg-type, return-value]
