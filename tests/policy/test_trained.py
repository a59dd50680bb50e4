"""A policy that was trained to go on from executed actions: LeRobot's own chunks, however the network runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_policy import edit, folder_of, use_small_sizes
from safetensors.torch import load_file
from small import MIXED, SMALL, random_observations, small_policy, write_random_checkpoint
from torch import Tensor

from vlapack.bench.synthetic import synthetic_policy
from vlapack.checkpoints import open_checkpoint
from vlapack.errors import InputError
from vlapack.packing.make import make_pack
from vlapack.pi0.capturable import capturable
from vlapack.pi0.flow import Pi0
from vlapack.pi0.graphs import Runner
from vlapack.pi0.recorder import Recorder
from vlapack.pi0.savings import Savings
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import RealTime, Tail, steering

GOLDEN = Path(__file__).parents[1] / "golden" / "lerobot-trained.safetensors"
# LeRobot rounds its flow times otherwise, which moves a chunk without delay as much; a delay moves it by 0.03 and more.
TOLERANCE = 1e-4
TRAINED = small_policy(architecture=replace(SMALL, max_delay=2))


def sampled(run: Callable[..., Tensor], tails: Any, golden: dict[str, Tensor]) -> Tensor:
    images = torch.nn.functional.pad(golden["images"], (0, 0, 0, 0, 0, 0, 0, 1))  # LIBERO's third camera is missing
    masks = torch.tensor([[True, True, False]] * 2)
    words = torch.ones_like(golden["tokens"], dtype=torch.bool)
    step = steering(tails, RealTime("trained"), horizon=4, max_delay=2)
    return run(images, masks, golden["tokens"], words, torch.zeros(2, 32), golden["noise"], step=step)


def tail(golden: dict[str, Tensor], delay: int, row: slice = slice(None)) -> Tail:
    given = torch.nn.functional.pad(golden["previous"][row], (0, 25))
    return Tail(given, delay, 3, torch.arange(32) < 7)


def as_captured(model: Pi0) -> Callable[..., Tensor]:
    return Runner(model, Recorder).sample_actions


def as_fused(model: Pi0) -> Callable[..., Tensor]:
    model.fuse()
    return model.sample_actions


RUNS = {"eager": lambda model: model.sample_actions, "captured": as_captured, "fused": as_fused}


@pytest.mark.parametrize(("run", "table"), [("eager", True), ("eager", False), ("captured", True), ("fused", True)])
def test_chunks_are_lerobots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str, table: bool) -> None:
    use_small_sizes(monkeypatch)
    folder, golden = folder_of("pi05", tmp_path), load_file(GOLDEN)
    edit(folder / "config.json", rtc_training_max_delay=2)
    policy = Policy.from_pretrained(folder, savings=Savings(time_table=table))
    sample = RUNS[run](policy.model)
    for delay in range(3):
        found = sampled(sample, tail(golden, delay), golden)
        torch.testing.assert_close(found, golden[f"delay {delay}"], rtol=0, atol=TOLERANCE)
    mixed = sampled(sample, [tail(golden, 2, slice(1)), tail(golden, 1, slice(1, 2))], golden)
    expected = torch.stack((golden["delay 2"][0], golden["delay 1"][1]))
    torch.testing.assert_close(mixed, expected, rtol=0, atol=TOLERANCE)


def test_a_pack_of_it_knows_its_delay_and_acts_as_it_does_module_by_module(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path / "parent", TRAINED)
    make_pack(open_checkpoint(folder), MIXED, tmp_path / "pack", random_observations(2))
    pack = Policy.from_pretrained(tmp_path / "pack")
    assert pack.config.architecture.max_delay == 2
    assert pack.model.is_fused
    previous = np.random.default_rng(0).normal(0, 0.3, (3, 7))
    about: dict[str, Any] = {"noise": torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), "delay": 2}
    fused = pack.infer(random_observations(1)[0], previous=previous, **about)["actions"]
    np.testing.assert_allclose(fused[:2], previous[:2], rtol=0, atol=1e-5)
    pack.model.unfuse()
    plain = pack.infer(random_observations(1)[0], previous=previous, **about)["actions"]
    # One flipped int8 value cascades; inpainting shows the expert something else, and is much farther away.
    other = pack.infer(random_observations(1)[0], previous=previous, realtime=RealTime("inpaint"), **about)["actions"]
    assert np.abs(fused - plain).max() < 0.3 * np.abs(other - plain).max()


def test_no_reason_is_left_not_to_capture_it() -> None:
    assert capturable(synthetic_policy(TRAINED, MIXED).model) == capturable(
        synthetic_policy(small_policy(), MIXED).model
    )


def test_without_a_delay_it_acts_as_any_policy() -> None:
    policy, seen = synthetic_policy(TRAINED), random_observations(1)[0]
    noise = torch.zeros(4, 32)
    found = policy.infer(seen, noise=noise, previous=np.zeros((3, 7)))["actions"]
    np.testing.assert_array_equal(found, policy.infer(seen, noise=noise)["actions"])


def test_more_than_it_was_trained_for_is_said() -> None:
    policy = synthetic_policy(TRAINED)
    with pytest.raises(InputError, match=r"delay is 3; this policy was trained .* at most 2 .* another guidance"):
        policy.infer(policy.example(), previous=np.zeros((3, 7)), delay=3)
    policy.infer(policy.example(), previous=np.zeros((3, 7)), delay=3, realtime=RealTime("lerobot"))
    plain = synthetic_policy(small_policy())
    with pytest.raises(InputError, match="guidance is 'trained'; this policy was not trained"):
        plain.infer(plain.example(), previous=np.zeros((3, 7)), delay=1, realtime=RealTime("trained"))


@pytest.mark.parametrize(
    ("change", "message"), [({"max_delay": 4}, "a chunk of 4 has at most 3"), ({"max_delay": -1}, "at least 0")]
)
def test_a_delay_that_no_training_has_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change)
    with pytest.raises(InputError, match="only pi05 is trained"):
        replace(SMALL, variant="pi0", max_delay=1)
