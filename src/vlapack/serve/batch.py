"""Requests of several robots in one pass of the network.

While the network runs, requests gather; when it is free, it takes all that fit together. So batches grow with the load
by themselves, and a lone robot is never kept waiting for company: the bounded wait only serves robots that ask at
almost the same time.

Chunks that continue a previous one (`serve.realtime`) share a pass with those that continue theirs in the same way,
each from its own tail, and never with others: those come as if nobody used real-time chunking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vlapack.policy.inputs import Inputs
from vlapack.serve.metrics import Metrics
from vlapack.serve.realtime import Joined
from vlapack.serve.trouble import DeviceLostError, device_trouble_named


class Acts(Protocol):
    """What acts on prepared observations: a `policy.Policy`, or a fake in a test."""

    def act(self, inputs: Inputs, noise: Tensor) -> np.ndarray:
        """Return actions [B, horizon, robot dimensions].

        A policy that has `tail`, as `Policy.tail`, also takes `tails` and `realtime`, as `Policy.act`.
        """
        ...


@dataclass(frozen=True, eq=False)
class Chunk:
    """One answer: the actions [horizon, robot dimensions], and how long the pass took that they came from, in ms."""

    actions: np.ndarray
    infer_ms: float


@dataclass(eq=False)
class _Waiting:
    inputs: Inputs
    noise: Tensor
    cameras: tuple[bool, ...]
    joined: Joined | None
    answer: asyncio.Future[Chunk] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def kind(self) -> tuple[object, ...]:
        """What must be the same for two requests to share a pass."""
        return self.cameras, self.joined is not None, None if self.joined is None else self.joined.how


class Batcher:
    """Collects requests and runs them, one batch at a time, in a thread of its own.

    Args:
        policy: what acts.
        max_batch: the most requests in one pass; 1 makes every answer exactly what it is alone.
        wait_s: how long a request may wait for others to join it.
        robots: how many robots are connected: nobody is waited for who is not there.
        metrics: counts batches and their times.
    """

    def __init__(
        self, policy: Acts, *, max_batch: int, wait_s: float, robots: Callable[[], int], metrics: Metrics
    ) -> None:
        self._policy = policy
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._robots = robots
        self._metrics = metrics
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._lost: DeviceLostError | None = None
        self._thread: Executor = ThreadPoolExecutor(1, thread_name_prefix="infer")

    async def act(self, inputs: Inputs, noise: Tensor, joined: Joined | None = None) -> Chunk:
        """Wait for the actions of one observation.

        Args:
            inputs: B = 1.
            noise: [horizon, action_dim].
            joined: what the actions continue; None for a chunk of its own.

        Raises:
            Exception: whatever the network raised on the batch that this request was in.
            DeviceLostError: the GPU failed, in this batch or in one before.
            CancelledError: the caller gave up; the request is computed only if its batch had begun.
        """
        if self._lost is not None:
            raise self._lost
        request = _Waiting(inputs, noise, tuple(inputs.image_masks[0].tolist()), joined)
        self._waiting.append(request)
        self._arrived.set()
        try:
            return await request.answer
        finally:
            if request in self._waiting:
                self._waiting.remove(request)

    async def run(self) -> None:
        """Answer requests until cancelled.

        Raises:
            DeviceLostError: the GPU failed; everyone who waits was told.
        """
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await self._gather()
            batch = self._take()
            if not batch:  # those who asked have left meanwhile
                continue
            running = loop.run_in_executor(self._thread, self._infer, batch)
            await asyncio.wait([running])
            error = running.exception()
            if isinstance(error, DeviceLostError):
                self._lost = error
                batch += self._waiting
            for row, request in enumerate(batch):
                if request.answer.cancelled():  # its client left while the network ran
                    continue
                if error is None:
                    request.answer.set_result(running.result()[row])
                else:  # each client is told, and the server goes on
                    request.answer.set_exception(error)
            if self._lost is not None:
                raise self._lost

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False)

    async def _gather(self) -> None:
        """Wait, for a bounded time, while more robots are there than have asked."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_s
        while len(self._waiting) < min(self._max_batch, self._robots()):
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), deadline - loop.time())
            except asyncio.TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        """Take the oldest request and those that are computed like it.

        They see by the same cameras, since a camera that nobody has is not encoded, and continue a chunk the same way.
        """
        kinds = {request.kind for request in self._waiting[:1]}
        batch = [request for request in self._waiting if request.kind in kinds][: self._max_batch]
        self._waiting = [request for request in self._waiting if request not in batch]
        return batch

    def _infer(self, batch: Sequence[_Waiting]) -> list[Chunk]:
        start = time.perf_counter()
        inputs = Inputs.stack([request.inputs for request in batch])
        noise = torch.stack([request.noise for request in batch])
        act: Callable[..., np.ndarray] = self._policy.act
        joined = [request.joined for request in batch if request.joined is not None]
        told: dict[str, Any] = {}
        if joined:  # then all of them are, in the same way
            told = {"tails": [one.tail for one in joined], "realtime": joined[0].how}
        with device_trouble_named():
            actions = act(inputs, noise, **told)
        seconds = time.perf_counter() - start
        self._metrics.infer_seconds.observe(seconds)
        self._metrics.batch.observe(len(batch))
        return [Chunk(chunk, seconds * 1000) for chunk in actions]
