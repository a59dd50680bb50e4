"""Real-time chunking over the wire: the policy's own chunks, no client that does not ask for it, and plain refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from running import Echo, running
from small import SMALL, random_observations, small_policy

from vlapack.bench.synthetic import synthetic_policy
from vlapack.errors import InputError
from vlapack.evaluate.contender import contender
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import Guidance, RealTime
from vlapack.serve.client import RemotePolicy
from vlapack.serve.realtime import Asked, read, request

DIMS = 7


def noise_of(policy: Policy, count: int) -> np.ndarray:
    return torch.randn(count, *policy.noise_shape, generator=torch.Generator().manual_seed(1)).numpy()


@pytest.mark.parametrize("guidance", [name for name in get_args(Guidance) if name != "trained"])
def test_a_continued_chunk_is_the_one_that_the_policy_gives_in_process(policy: Policy, guidance: Guidance) -> None:
    first, second = random_observations(2)
    told: dict[str, Any] = {"delay": 1, "execution_horizon": 3, "realtime": RealTime(guidance, "linear", 5.0)}
    with running(policy) as server:
        remote = RemotePolicy(f"ws://127.0.0.1:{server.port}")
        found = []
        for one in (policy, remote):
            generator = torch.Generator().manual_seed(3)
            chunk = one.infer(first, generator=generator)["actions"]
            found += [chunk, one.infer(second, generator=generator, previous=chunk[1:], **told)["actions"]]
        remote.close()
    np.testing.assert_array_equal(found[:2], found[2:])
    plain = policy.infer(second, noise=noise_of(policy, 1)[0])["actions"]
    assert np.abs(plain - found[1]).max() > 1e-3


def test_a_request_without_the_key_is_answered_as_if_there_were_none(policy: Policy) -> None:
    """Bit for bit, beside a robot that continues its chunks, and of the same batch if there could be one."""
    observations, noise = random_observations(2), noise_of(policy, 2)
    alone = [policy.infer(obs, noise=one)["actions"] for obs, one in zip(observations, noise, strict=True)]
    told = request(alone[1][1:], 1, None, RealTime())
    asked = [{**observations[0], "noise": noise[0]}, {**observations[1], "noise": noise[1], "realtime": told}]
    with running(policy, max_batch=2, wait_s=0.2) as server, ThreadPoolExecutor(2) as threads:
        clients = [server.client() for _ in asked]
        assert {"realtime", *policy.metadata} == clients[0].metadata.keys()
        old, new = threads.map(lambda client, obs: client.infer(obs)["actions"], clients, asked)
        assert server.counted("vlapack_batch_count") == 2
    np.testing.assert_array_equal(old, alone[0])
    assert np.abs(new - alone[1]).max() > 1e-3


def test_robots_that_continue_in_the_same_way_share_a_pass_each_with_its_own_tail(policy: Policy) -> None:
    observations, noise = random_observations(4), noise_of(policy, 4)
    draw = np.random.default_rng(2)
    previous = [draw.normal(0, 0.5, (left, DIMS)) for left in (1, 2, 3, 3)]
    hows = [RealTime(), RealTime(), RealTime(), RealTime("inpaint")]
    expected = [
        policy.infer(obs, noise=one, previous=left, delay=1, realtime=how)["actions"]
        for obs, one, left, how in zip(observations, noise, previous, hows, strict=True)
    ]
    asked = [
        {**obs, "noise": one, "realtime": request(left, 1, None, how)}
        for obs, one, left, how in zip(observations, noise, previous, hows, strict=True)
    ]
    with running(policy, max_batch=4, wait_s=0.5) as server, ThreadPoolExecutor(4) as threads:
        clients = [server.client() for _ in asked]
        found = list(threads.map(lambda client, obs: client.infer(obs)["actions"], clients, asked))
        assert server.counted("vlapack_batch_count") == 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_connection_remembers_its_own_last_answer_and_no_other(policy: Policy) -> None:
    first, second = random_observations(2)
    noise = noise_of(policy, 2)
    with running(policy) as server:
        client, other = server.client(), server.client()
        chunk = client.infer({**first, "noise": noise[0]})["actions"]
        found = client.infer({**second, "noise": noise[1], "realtime": {"executed": 2, "delay": 1}})["actions"]
        expected = policy.infer(second, noise=noise[1], previous=chunk[2:], delay=1)["actions"]
        np.testing.assert_array_equal(found, expected)
        with pytest.raises(RuntimeError, match="executed: this connection had no answer yet"):
            other.infer({**second, "realtime": {"executed": 2}})
        with pytest.raises(RuntimeError, match="executed is 5; the last answer had 4 actions, so it is 0 to 4"):
            client.infer({**second, "realtime": {"executed": 5}})


REFUSED: dict[str, tuple[Any, str]] = {
    "no dictionary": (3, "realtime: int; it is a dictionary with previous, executed, delay"),
    "unknown": ({"previous": np.zeros((2, DIMS)), "dealy": 1}, "realtime: unknown key 'dealy'; it may have previous"),
    "neither": ({"delay": 1}, "give either `previous`"),
    "both": ({"previous": np.zeros((2, DIMS)), "executed": 1}, "give either `previous`"),
    "a list": ({"previous": [1.0, 2.0]}, "previous is list; it is a numpy array"),
    "another robot's": ({"previous": np.zeros((2, 14))}, r"previous: float64 of shape \[2, 14\]; it is \[n, 7\]"),
    "more than a chunk": ({"previous": np.zeros((5, DIMS))}, r"shape \[5, 7\].*at most 4"),
    "nan": ({"previous": np.full((2, DIMS), np.nan)}, "previous: not finite everywhere"),
    "negative": ({"previous": np.zeros((2, DIMS)), "delay": -1}, "delay is -1; 2 actions.*0 to 2"),
    "too late": ({"previous": np.zeros((2, DIMS)), "delay": 3}, "delay is 3; 2 actions.*0 to 2"),
    "half a step": ({"previous": np.zeros((2, DIMS)), "delay": 0.5}, "delay is 0.5; it is a number of actions"),
    "an array": ({"previous": np.zeros((2, DIMS)), "delay": np.ones(1, int)}, "delay is .*a number of actions"),
    "horizon": ({"previous": np.zeros((2, DIMS)), "execution_horizon": 9}, "execution_horizon is 9.*chunk's 4"),
    "trained": (
        {"previous": np.zeros((2, DIMS)), "guidance": "trained"},
        "guidance is 'trained'; this policy was not trained",
    ),
    "guidance": ({"previous": np.zeros((2, DIMS)), "guidance": "magic"}, "guidance is 'magic'; it must be one of"),
    "guidance, array": ({"previous": np.zeros((2, DIMS)), "guidance": np.ones(2)}, "guidance is ndarray; it is text"),
    "weight": ({"previous": np.zeros((2, DIMS)), "max_guidance_weight": -1.0}, "max_guidance_weight is -1.0"),
}


def test_what_cannot_be_meant_is_one_line_and_the_robot_keeps_its_connection(policy: Policy) -> None:
    [observation], [noise] = random_observations(1), noise_of(policy, 1)
    asked = {**observation, "noise": noise}
    with running(policy) as server:
        client = server.client()
        for name, (said, message) in REFUSED.items():
            with pytest.raises(RuntimeError, match=f"^realtime: .*{message.removeprefix('realtime: ')}") as caught:
                client.infer({**asked, "realtime": said})
            assert "\n" not in str(caught.value), name
        np.testing.assert_array_equal(client.infer(asked)["actions"], policy.infer(observation, noise=noise)["actions"])
        remote = RemotePolicy(f"ws://127.0.0.1:{server.port}")
        with pytest.raises(InputError, match="delay is 3; 2 actions"):
            remote.infer(observation, previous=np.zeros((2, DIMS)), delay=3)
        assert remote.infer(observation, previous=np.zeros((2, DIMS)), delay=np.int64(2))["actions"].shape == (4, DIMS)
        remote.close()


def test_a_policy_that_was_trained_for_it_is_given_actions_and_refuses_one_robots_long_delay_alone() -> None:
    trained = synthetic_policy(small_policy(architecture=replace(SMALL, max_delay=2)))
    observations, noise = random_observations(2), noise_of(trained, 2)
    previous = np.random.default_rng(3).normal(0, 0.5, (3, DIMS))
    with running(trained, max_batch=2, wait_s=0.2) as server, ThreadPoolExecutor(2) as threads:
        clients = [server.client() for _ in observations]
        assert clients[0].metadata["realtime"]["guidance"] == ["lerobot", "vjp", "inpaint", "trained"]
        asked = [
            {**seen, "noise": one, "realtime": request(previous, delay)}
            for seen, one, delay in zip(observations, noise, (2, 3), strict=True)
        ]
        answers = [threads.submit(client.infer, each) for client, each in zip(clients, asked, strict=True)]
        found = answers[0].result()["actions"]
        with pytest.raises(RuntimeError, match="realtime: delay is 3; this policy was trained to go on from at most 2"):
            answers[1].result()
        remote = RemotePolicy(f"ws://127.0.0.1:{server.port}")
        assert remote.max_delay == 2
        remote.close()
    expected = trained.infer(observations[0], noise=noise[0], previous=previous, delay=2)["actions"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[:2], previous[:2], rtol=0, atol=1e-4)


def test_a_policy_that_cannot_continue_a_chunk_does_not_offer_it() -> None:
    with running(Echo()) as server:
        client = server.client()
        assert "realtime" not in client.metadata
        with pytest.raises(RuntimeError, match="realtime: the policy of this server cannot continue a chunk"):
            client.infer({"number": 1, "realtime": {"executed": 0}})
        assert client.infer({"number": 2})["actions"][0, 0] == 2
        remote = RemotePolicy(f"ws://127.0.0.1:{server.port}")
        with pytest.raises(InputError, match=r"this server cannot continue a chunk \(its metadata has no 'realtime'\)"):
            remote.infer({"number": 1}, previous=np.zeros((1, 3)))
        remote.close()


def test_an_evaluation_in_real_time_takes_the_servers_that_offer_it(policy: Policy) -> None:
    with running(policy) as ours, running(Echo()) as other:
        able, _ = contender("policy", f"ws://127.0.0.1:{ours.port}")
        unable, _ = contender("policy", f"ws://127.0.0.1:{other.port}")
        assert (able.continues, unable.continues) == (True, False)
        [observation] = random_observations(1)
        told: dict[str, Any] = {"previous": np.zeros((3, DIMS)), "delay": 2, "realtime": RealTime("inpaint")}
        infer: Any = able.load().infer
        found = infer(observation, generator=torch.Generator().manual_seed(5), **told)["actions"]
    expected = policy.infer(observation, generator=torch.Generator().manual_seed(5), **told)["actions"]
    np.testing.assert_array_equal(found, expected)


def test_what_a_client_writes_is_what_a_server_reads() -> None:
    previous, how = np.ones((2, DIMS)), RealTime("vjp", "ones", 5)
    asked = read(request(previous, 1, 3, how), None)
    assert isinstance(asked, Asked)
    assert (asked.delay, asked.execution_horizon, asked.how) == (1, 3, how)
    assert read(request(previous, 0), None).how is None  # the policy's default
