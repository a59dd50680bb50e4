"""A server on a thread of this process, for as long as a test needs it."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from websockets.sync.client import ClientConnection, connect

from vlapack.policy.inputs import Inputs
from vlapack.serve.door import Door
from vlapack.serve.metrics import Metrics
from vlapack.serve.server import Server
from vlapack.serve.service import Service
from vlapack.serve.wire import pack, unpack


@dataclass
class Echo:
    """A policy whose actions say which observation they are for, and which noise."""

    metadata: dict[str, Any] = field(default_factory=lambda: {"reset_pose": [0, -1.5, 1.5, 0, 0, 0]})
    noise_shape: tuple[int, int] = (2, 3)
    hold: threading.Event | None = None
    """Where given, a pass of the network ends only when it is set."""
    batches: list[int] = field(default_factory=list)
    cameras: tuple[bool, ...] = (True, True, False)

    def observe(self, observation: Mapping[str, Any]) -> Inputs:
        robot_state = np.full((1, 1), float(observation["number"]))
        masks = torch.tensor([observation.get("cameras", self.cameras)])
        nothing = torch.zeros(1, 1)
        return Inputs(nothing, masks, nothing, nothing, nothing, robot_state)

    def act(self, inputs: Inputs, noise: torch.Tensor) -> np.ndarray:
        if self.hold is not None:
            assert self.hold.wait(30)
        self.batches.append(len(noise))
        if (inputs.robot_state < 0).any():
            raise RuntimeError("secret of /etc/passwd")
        actions = noise.double().numpy()
        actions[:, 0, 0] = inputs.robot_state[:, 0]
        return actions


@dataclass
class Running:
    """Where a server listens, and the way to stop it."""

    port: int
    metrics: Metrics
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    end: asyncio.Future[None]
    answered: list[int] = field(default_factory=list)

    def connect(self, **options: Any) -> ClientConnection:
        # Newer versions want a `with`; these end with their server.
        return connect(f"ws://127.0.0.1:{self.port}", compression=None, max_size=None, **options).__enter__()

    def client(self) -> Client:
        return Client(self.connect())

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return str(response.read().decode())

    def counted(self, name: str) -> float:
        lines = (line for line in self.get("/metrics").splitlines() if line.startswith(f"{name} "))
        return float(next(lines).rpartition(" ")[2])

    def stop(self) -> None:
        if not self.end.done():
            self.loop.call_soon_threadsafe(self.end.set_result, None)


class Client:
    """What openpi's client does, in few lines."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.metadata = unpack(socket.recv())

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        self.socket.send(pack(observation))
        answer = self.socket.recv(timeout=60)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return unpack(answer)


@contextmanager
def running(policy: Any, *, door: Door | None = None, debug: bool = False, **options: Any) -> Iterator[Running]:
    """Serve `policy` until the block ends; `options` are those of `Service`."""
    started: list[Running] = []
    up = threading.Event()
    metrics = Metrics(policy="test", engine="reference", version="0")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        end: asyncio.Future[None] = loop.create_future()
        service = Service(policy, metrics=metrics, **options)
        server = Server(service, metrics, door or Door(), engine="reference", debug=debug)

        def ready(host: str, port: int) -> None:
            started.append(Running(port, metrics, thread, loop, end))
            up.set()

        answered = await server.run(end, ready)
        started[0].answered.append(answered)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert up.wait(20)
    try:
        yield started[0]
    finally:
        started[0].stop()
        thread.join(20)
    assert not thread.is_alive()
