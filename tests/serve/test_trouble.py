"""A GPU that fails moves no robot: who asked is told, and the server goes on or ends, by what failed."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from running import Client, Echo, running
from small import random_observations, small_policy
from websockets.sync.client import connect

from vlapack.bench.synthetic import synthetic_policy
from vlapack.console import exit_code
from vlapack.pi0.graphs import Runner
from vlapack.pi0.recorder import Recorder
from vlapack.policy.policy import Policy
from vlapack.serve.door import Door
from vlapack.serve.metrics import Metrics
from vlapack.serve.run import Settings, serve_policy
from vlapack.serve.server import Server
from vlapack.serve.service import Service
from vlapack.serve.trouble import DeviceLostError, MemoryShortError, device_trouble_named, named
from vlapack.serve.wire import pack

LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be …"),
    RuntimeError("Triton Error [CUDA]: unspecified launch failure"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    RuntimeError("HIP error: invalid device function"),
]
SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


class Failing(Echo):
    """Raises what it is given, once for each observation of a negative number."""

    error: Exception = RuntimeError()

    def act(self, inputs: Any, noise: torch.Tensor) -> np.ndarray:
        if (inputs.robot_state < 0).any():
            self.wait()
            raise self.error
        return super().act(inputs, noise)

    def wait(self) -> None:
        if self.hold is not None:
            assert self.hold.wait(30)


def failing(error: Exception, **options: Any) -> Failing:
    policy = Failing(**options)
    policy.error = error
    return policy


def test_what_a_library_cannot_do_leaves_the_device_as_it_was() -> None:
    assert named(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`")) is None


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_lost_device_is_known_by_what_torch_and_triton_say(error: Exception) -> None:
    assert isinstance(named(error), DeviceLostError)
    assert "\n" not in str(named(error))


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_memory_that_is_short_is_no_lost_device(error: Exception) -> None:
    assert isinstance(named(error), MemoryShortError)


@pytest.mark.parametrize(
    "error", [RuntimeError("The size of tensor a must match"), ValueError("CUDA error"), KeyError()]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert named(error) is None
    with pytest.raises(type(error)) as raised, device_trouble_named():
        raise error
    assert raised.value is error


def test_what_an_attempt_held_is_free_before_the_cache_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    when_emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: when_emptied.append(alive[0]() is not None))

    def attempt() -> None:
        held = torch.zeros(8)
        alive.append(weakref.ref(held))
        raise SHORT[0]

    with pytest.raises(MemoryShortError), device_trouble_named():
        attempt()
    assert when_emptied == [False]


def test_a_server_goes_on_after_a_lack_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    with running(failing(SHORT[0])) as server:
        other = server.client()
        with pytest.raises(RuntimeError, match="out of memory"):
            server.client().infer({"number": -1})
        assert other.infer({"number": 3})["actions"][0, 0] == 3
    assert "the GPU is out of memory" in capsys.readouterr().err


async def _until_it_ends(policy: Any, door: Door, ports: list[int], up: threading.Event) -> int:
    metrics = Metrics(policy="test", engine="reference", version="0")
    server = Server(Service(policy, metrics=metrics, max_batch=1), metrics, door, engine="reference")

    def ready(host: str, port: int) -> None:
        ports.append(port)
        up.set()

    return await server.run(asyncio.get_running_loop().create_future(), ready)


def test_a_lost_device_ends_the_server_after_everyone_was_told(capsys: pytest.CaptureFixture[str]) -> None:
    hold, up = threading.Event(), threading.Event()
    policy, ports, codes = failing(LOST[0], hold=hold), [], []

    def serve() -> int:
        asyncio.run(_until_it_ends(policy, Door(), ports, up))
        return 0

    thread = threading.Thread(target=lambda: codes.append(exit_code(serve)), daemon=True)
    thread.start()
    assert up.wait(20)
    clients = [Client(connect(f"ws://127.0.0.1:{ports[0]}", compression=None).__enter__()) for _ in range(3)]
    for client, number in zip(clients, (-1, 2), strict=False):  # the second waits behind the first; the third is idle
        client.socket.send(pack({"number": number}))
        time.sleep(0.2)
    hold.set()
    for client in clients[:2]:
        told = client.socket.recv(timeout=20)
        assert isinstance(told, str)
        assert "the GPU failed" in told
        assert "illegal memory access" in told
    thread.join(20)
    assert codes == [1]
    assert policy.batches == []
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("failed: the GPU failed, and this server ends")


def test_a_policy_that_finds_no_room_when_it_is_loaded_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def infer(*arguments: Any) -> None:
        raise SHORT[0]

    monkeypatch.setattr(Policy, "infer", infer)
    assert exit_code(lambda: serve_policy("tiny-libero", Door(), Settings(), announce=print)) == 1
    assert "failed: the GPU is out of memory" in capsys.readouterr().err


def test_a_chunk_that_fails_in_the_middle_leaves_nothing_to_the_next() -> None:
    """Captured runs write into buffers that stay; what a failed chunk left there must not be anybody's actions."""
    steps = iter([1, None])  # pictures and prompt, and then the steps

    class Fails(Recorder):
        def replay(self) -> None:
            if next(steps, 0) is None:
                raise LOST[0]
            super().replay()

    policy = synthetic_policy(small_policy())
    asked = [policy.observe(observation).network for observation in random_observations(2)]
    noise = torch.randn(2, 1, *policy.noise_shape, generator=torch.Generator().manual_seed(0))
    acting = Runner(policy.model, Fails)
    with pytest.raises(DeviceLostError), device_trouble_named():
        acting.sample_actions(*asked[0], noise[0])
    whole = Runner(policy.model, Recorder)
    assert torch.equal(acting.sample_actions(*asked[1], noise[1]), whole.sample_actions(*asked[1], noise[1]))
    assert acting.how == "graph"
