"""Many robots on one policy: who gets which answer, from which batch, and when."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from running import Echo, running
from small import random_observations
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed

from vlapack.commands.quantize import quantize
from vlapack.policy.policy import Policy
from vlapack.recipe.resolve import RecipeFlags
from vlapack.serve.wire import pack, unpack


def test_the_policys_answers_are_those_it_gives_alone(policy: Policy) -> None:
    observations = random_observations(6)
    noise = torch.randn(6, *policy.noise_shape, generator=torch.Generator().manual_seed(1))
    alone = [policy.infer(obs, noise=one)["actions"] for obs, one in zip(observations, noise, strict=True)]
    for max_batch, tolerance in ((6, 1e-4), (1, 0.0)):
        with running(policy, max_batch=max_batch, wait_s=0.2) as server, ThreadPoolExecutor(6) as threads:
            clients = [server.client() for _ in observations]
            served = threads.map(
                lambda client, obs, one: client.infer(obs | {"noise": one.numpy()})["actions"],
                clients, observations, noise,
            )  # fmt: skip
            np.testing.assert_allclose(list(served), alone, rtol=0, atol=tolerance)
            assert server.counted("vlapack_batch_count") == (1 if max_batch == 6 else 6)


def test_a_pack_answers_in_a_batch_within_half_of_what_quantization_changed_and_alone_exactly(
    policy: Policy, random_checkpoint: Path, observation_folder: Path, tmp_path: Path
) -> None:
    pack = tmp_path / "pack"
    fields = RecipeFlags(calib_steps=4)
    assert quantize(str(random_checkpoint), preset="full", out=pack, calib=observation_folder, fields=fields) == 0
    packed = Policy.from_pretrained(pack)
    observations = random_observations(4)
    noise = np.random.default_rng(2).normal(size=(4, *policy.noise_shape))
    asked = [obs | {"noise": one} for obs, one in zip(observations, noise, strict=True)]
    float_alone, alone = (
        np.array([one.infer(obs, noise=start)["actions"] for obs, start in zip(observations, noise, strict=True)])
        for one in (policy, packed)
    )
    for max_batch, share in ((4, 0.5), (1, 0.0)):
        with running(packed, max_batch=max_batch, wait_s=0.2) as server, ThreadPoolExecutor(4) as threads:
            answers = threads.map(
                lambda client, obs: client.infer(obs)["actions"], [server.client() for _ in asked], asked
            )
            assert np.linalg.norm(np.array(list(answers)) - alone) <= share * np.linalg.norm(float_alone - alone)


def test_of_many_robots_each_gets_its_own_answers_and_none_is_lost() -> None:
    async def work(port: int, robot: int) -> list[float]:
        got = []
        async with connect_async(f"ws://127.0.0.1:{port}", compression=None) as socket:
            await socket.recv()
            for request in range(8):
                await socket.send(pack({"number": robot + request / 100}))
                got.append(float(unpack(await socket.recv())["actions"][0, 0]))
        return got

    async def crowd(port: int) -> list[list[float]]:
        return await asyncio.gather(*(work(port, robot) for robot in range(64)))

    echo = Echo()
    with running(echo, max_batch=16) as server:
        answers = asyncio.run(crowd(server.port))
    np.testing.assert_allclose(answers, np.arange(64)[:, None] + np.arange(8)[None] / 100)
    assert sum(echo.batches) == 64 * 8
    assert max(echo.batches) > 1


def test_only_equal_cameras_share_a_pass() -> None:
    echo = Echo()
    with running(echo, max_batch=8, wait_s=0.2) as server, ThreadPoolExecutor(4) as threads:
        masks = [[True, False, False], [True, True, False]] * 2
        clients = [server.client() for _ in masks]
        list(threads.map(lambda client, mask: client.infer({"number": 1, "cameras": mask}), clients, masks))
    assert echo.batches == [2, 2]


def test_a_lone_robot_waits_for_nobody() -> None:
    with running(Echo(), wait_s=5.0) as server:
        client = server.client()
        start = time.monotonic()
        client.infer({"number": 1})
        assert time.monotonic() - start < 2


def test_a_full_queue_answers_at_once_and_serves_on() -> None:
    echo = Echo(hold=threading.Event())
    with running(echo, queue=2, max_batch=1) as server, ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(server.client().infer, {"number": number}) for number in range(2)]
        while server.counted("vlapack_queue") < 2:
            time.sleep(0.01)
        refused = server.client()
        with pytest.raises(RuntimeError, match="busy: 2 requests are waiting"):
            refused.infer({"number": 9})
        with pytest.raises(ConnectionClosed) as closed:
            refused.socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        echo.hold.set()
        assert [task.result()["actions"][0, 0] for task in waiting] == [0, 1]
        assert server.counted('vlapack_requests_total{outcome="busy"}') == 1


def test_what_was_asked_before_the_end_is_answered() -> None:
    echo = Echo(hold=threading.Event())
    with running(echo, max_batch=1) as server, ThreadPoolExecutor(5) as threads:
        idle = server.client()
        waiting = [threads.submit(server.client().infer, {"number": number}) for number in range(5)]
        while server.counted("vlapack_queue") < 5:
            time.sleep(0.01)
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            idle.socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        echo.hold.set()
        assert [task.result()["actions"][0, 0] for task in waiting] == [0, 1, 2, 3, 4]
    assert server.answered == [5]
