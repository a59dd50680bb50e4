"""A policy behind a server is the policy: the same actions for the same noise, and errors in words."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import Echo, running
from small import random_observations

from vlapack.errors import InputError, WorkError
from vlapack.evaluate.clock import PlanClock
from vlapack.evaluate.contender import contender
from vlapack.evaluate.run import evaluate
from vlapack.policy.inputs import Inputs
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import RealTime, Tail
from vlapack.serve.client import RemotePolicy
from vlapack.serve.door import Door


def test_an_episode_over_the_network_has_the_noise_and_actions_of_one_without(policy: Policy) -> None:
    observations = random_observations(3)
    with running(policy) as server:
        remote = RemotePolicy(f"ws://127.0.0.1:{server.port}")
        ours, theirs = (
            [one.infer(obs, generator=generator)["actions"] for obs in observations]
            for one, generator in (
                (policy, torch.Generator().manual_seed(3)),
                (remote, torch.Generator().manual_seed(3)),
            )
        )
        np.testing.assert_array_equal(ours, theirs)
        assert (remote.held_bytes(), remote.mapped_bytes(), remote.engine) == (0, 0, "reference")
        remote.close()


def test_a_server_takes_part_in_an_evaluation() -> None:
    with running(Echo()) as server:
        url = f"ws://127.0.0.1:{server.port}"
        entry, metadata = contender("policy", url, config="pi05_libero", tokenizer=Path("anything"))
        assert metadata == Echo().metadata
        assert (entry.name, entry.identity["engine"], entry.needed_bytes) == (url, "reference", 0)
        assert entry.load().infer({"number": 4})["actions"][0, 0] == 4


def test_what_the_server_refuses_is_said() -> None:
    with running(Echo()) as server:
        remote = RemotePolicy(f"ws://127.0.0.1:{server.port}")
        with pytest.raises(WorkError, match="the policy failed"):
            remote.infer({"number": -1})
        with pytest.raises(WorkError, match="the server is gone"):
            remote.infer({"number": 1})


def test_nobody_there_and_the_wrong_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Echo(), door=Door(api_key="s3cret")) as server:
        url = f"ws://127.0.0.1:{server.port}"
        with pytest.raises(InputError, match="401; set VLAPACK_API_KEY"):
            RemotePolicy(url)
        monkeypatch.setenv("VLAPACK_API_KEY", "s3cret")
        RemotePolicy(url).close()
    with pytest.raises(InputError, match="no policy server"):
        RemotePolicy(url)
    with pytest.raises(InputError, match="no policy server"):
        RemotePolicy("ws://not a host")


def test_flags_that_do_not_reach_a_server_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with running(Echo()) as server:
        url = f"ws://127.0.0.1:{server.port}"
        contender("policy", url)
        assert capsys.readouterr().err == ""
        contender("policy", url, dtype="bfloat16")
    assert "`dtype` and `compile` have no effect on it" in capsys.readouterr().err.replace("\n", " ")


def test_an_evaluation_over_the_network_takes_the_course_of_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drunkard(Echo):
        def observe(self, observation: Mapping[str, Any]) -> Inputs:
            return super().observe({"number": 0})

        def act(self, inputs: Inputs, noise: torch.Tensor) -> np.ndarray:
            return (0.1 + 0.2 * noise).double().numpy()

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "evaluate"))  # its workers inherit the path
    fakes, simulators = import_module("fakes"), import_module("simulators")
    with running(Drunkard(noise_shape=(10, 7))) as server:
        remote, _ = contender("policy", f"ws://127.0.0.1:{server.port}")
        local = fakes.contender("policy", fakes.Drunkard())
        ours, theirs = (
            evaluate(
                fakes.plan([entry]), [entry], tmp_path / entry.name[:2], factory=simulators.walk, videos=False
            )["policy"]
            for entry in (remote, local)
        )  # fmt: skip
    assert len(ours) > 1
    assert [record.steps for record in ours] == [record.steps for record in theirs]


def test_an_evaluation_in_real_time_over_the_network_takes_the_course_of_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def continued(chunk: np.ndarray, previous: np.ndarray, delay: int) -> np.ndarray:
        return np.concatenate([previous[:delay], 0.1 + 0.2 * chunk[delay:]])

    class Served(Echo):
        def observe(self, observation: Mapping[str, Any]) -> Inputs:
            return super().observe({"number": 0})

        def tail(self, inputs: Inputs, previous: np.ndarray, delay: int, execution_horizon: int | None) -> Tail:
            return Tail(torch.from_numpy(previous[None].copy()), delay, execution_horizon or len(previous))

        def act(self, inputs: Inputs, noise: torch.Tensor, **told: Any) -> np.ndarray:
            if not told:
                return (0.1 + 0.2 * noise).double().numpy()
            assert told["realtime"] == RealTime("inpaint")
            pairs = zip(noise.double().numpy(), told["tails"], strict=True)
            return np.stack([continued(chunk, tail.actions[0].numpy(), tail.delay) for chunk, tail in pairs])

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "evaluate"))  # its workers inherit the path
    fakes, simulators = import_module("fakes"), import_module("simulators")

    class Local(fakes.Drunkard):  # type: ignore[misc, name-defined]
        def infer(self, observation: Any, /, *, generator: Any, previous: Any = None, delay: int = 0, **_: Any) -> Any:
            noise = torch.randn(10, 7, generator=generator)
            plain = (0.1 + 0.2 * noise).double().numpy()
            return {"actions": plain if previous is None else continued(noise.double().numpy(), previous, delay)}

    clock = PlanClock("rtc", 2, guidance="inpaint")
    with running(Served(noise_shape=(10, 7))) as server:
        remote, _ = contender("policy", f"ws://127.0.0.1:{server.port}")
        ours, theirs = (
            evaluate(
                fakes.plan([entry], clock=clock), [entry], tmp_path / entry.name[:2],
                factory=simulators.walk, videos=False,
            )["policy"]
            for entry in (remote, fakes.contender("policy", Local()))
        )  # fmt: skip
    assert sum(record.timing.chunks for record in ours) > len(ours)
    assert [(record.steps, record.timing) for record in ours] == [(record.steps, record.timing) for record in theirs]
