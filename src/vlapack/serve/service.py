"""One request, from its bytes to the bytes of its answer; how they are carried (websockets, a test) is not known here.

    bytes -> admitted, or `busy` at once -> unpacked, checked, prepared -> batched and inferred -> packed

Unpacking and preparing pictures happen in a thread of their own, beside the network's: the event loop does nothing that
takes time, so that a robot which sends a gigabyte, or a batch that takes seconds, delays nobody's ping.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vlapack.errors import InputError, WorkError
from vlapack.policy.inputs import Inputs
from vlapack.policy.rtc import RealTime, Tail, steering
from vlapack.serve.batch import Acts, Batcher
from vlapack.serve.metrics import Metrics
from vlapack.serve.realtime import REALTIME, Joined, RealTimeError, offer, read, refused_by_name
from vlapack.serve.wire import pack, unpack

NOISE = "noise"
"""Like `REALTIME` a key that is not the robot's: a client may send the noise that its chunk starts from."""

MOST_TEXT = 4096
"""Characters; networks read at most some 200 tokens, and a tokenizer takes seconds over megabytes."""


class Served(Acts, Protocol):
    """What a server asks of a policy; `policy.Policy` has it, a fake in a test too."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What clients get on connect."""
        ...

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Horizon and action_dim."""
        ...

    def observe(self, observation: Mapping[str, Any]) -> Inputs:
        """Prepare one observation; InputError for one that cannot be used.

        A policy that also has `tail`, `max_delay` and `realtime`, as `Policy`, continues chunks: its clients may send
        `realtime`.
        """
        ...


class BusyError(WorkError):
    """As many requests wait as may wait."""


class Service:
    """Answers requests.

    Args:
        policy: what acts.
        seed: root of every request's noise.
        max_batch: the most requests in one pass of the network.
        wait_s: how long a request may wait for others to join it.
        queue: the most requests that may be under way; the next one is refused at once.
        metrics: counts them.
        record: called with every usable observation, its connection and its number, in the preparing thread.
    """

    def __init__(
        self,
        policy: Served,
        *,
        metrics: Metrics,
        seed: int = 0,
        max_batch: int = 8,
        wait_s: float = 0.002,
        queue: int = 256,
        record: Callable[[Mapping[str, Any], int, int], None] | None = None,
    ) -> None:
        self._policy = policy
        self._seed = seed
        self._queue = queue
        self._record = record
        self._metrics = metrics
        self._tail: Callable[..., Tail | None] | None = getattr(policy, "tail", None)
        self._max_delay: int = getattr(policy, "max_delay", 0)
        self._how: RealTime = getattr(policy, "realtime", RealTime())
        # Connection → the actions of its last answer, which its next request may continue.
        self._last: dict[int, np.ndarray] = {}
        self._under_way = 0
        self.robots = 0
        """How many clients are connected; the server says so."""
        self._batcher = Batcher(policy, max_batch=max_batch, wait_s=wait_s, robots=lambda: self.robots, metrics=metrics)
        self._prepare = ThreadPoolExecutor(1, thread_name_prefix="prepare")

    @property
    def greeting(self) -> bytes:
        """The first message to every client: the parent's metadata, and beside it whether chunks can be continued."""
        metadata = self._policy.metadata
        return pack(
            metadata if self._tail is None else metadata | {REALTIME: offer(self.noise_shape[0], self._max_delay)}
        )

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of the noise that a client may send."""
        return self._policy.noise_shape

    async def run(self) -> None:
        """Serve until cancelled; a caller of `answer` must run this too."""
        try:
            await self._batcher.run()
        finally:
            self._batcher.close()
            self._prepare.shutdown(wait=False)

    async def answer(self, message: bytes, *, connection: int, number: int, previous_s: float | None = None) -> bytes:
        """Answer one observation.

        Args:
            message: what `wire.pack` makes of an observation, and perhaps of `noise` [horizon, action_dim] and of
                `realtime` (`serve.realtime`).
            connection: which of the server's connections it came by, from 0.
            number: how many came before it there. Both decide the noise, where the client sends none.
            previous_s: how long the client's last request took until its answer was sent; openpi reports that.

        Raises:
            BusyError: the queue is full.
            InputError: the message or the observation cannot be used.
            RealTimeError: only what it says under `realtime` cannot be; ask again.
            WorkError: the policy gave actions that no robot should carry out.
        """
        if self._under_way >= self._queue:
            raise BusyError(f"the server is busy: {self._queue} requests are waiting; ask again later")
        self._under_way += 1
        self._metrics.queue.set(self._under_way)
        start = time.perf_counter()
        try:
            loop = asyncio.get_running_loop()
            prepared = await loop.run_in_executor(self._prepare, self._prepared, message, connection, number)
            chunk = await self._batcher.act(*prepared)
        finally:
            self._under_way -= 1
            self._metrics.queue.set(self._under_way)
        if not np.isfinite(chunk.actions).all():
            raise WorkError("the policy gave actions that are NaN or infinite")
        if self._tail is not None:
            self._last[connection] = chunk.actions
        seconds = time.perf_counter() - start
        self._metrics.seconds.observe(seconds)
        timing = {"infer_ms": seconds * 1000}
        if previous_s is not None:
            timing["prev_total_ms"] = previous_s * 1000
        return pack({"actions": chunk.actions, "policy_timing": {"infer_ms": chunk.infer_ms}, "server_timing": timing})

    def forget(self, connection: int) -> None:
        """Drop what is kept of a connection: it is closed."""
        self._last.pop(connection, None)

    def _prepared(self, message: bytes, connection: int, number: int) -> tuple[Inputs, Tensor, Joined | None]:
        observation = unpack(message)
        join = self._joining(observation, connection)
        _check_lists(observation, "")
        given = observation.pop(NOISE, None)
        for key, value in observation.items():
            if isinstance(value, str | bytes) and len(value) > MOST_TEXT:
                raise InputError(f"{key:.100}: {len(value)} characters; an instruction has at most {MOST_TEXT}")
        try:
            inputs = self._policy.observe(observation)
        except ValueError as error:  # numpy's, of lists that make no array
            raise InputError(str(error)) from error
        joined = join(inputs)
        if self._record is not None:
            self._record(observation, connection, number)
        if given is None:
            generator = torch.Generator().manual_seed(noise_seed(self._seed, connection, number))
            return inputs, torch.randn(self.noise_shape, generator=generator), joined
        return inputs, torch.from_numpy(self._checked(given)), joined

    def _joining(self, observation: dict[str, Any], connection: int) -> Callable[[Inputs], Joined | None]:
        """Take `realtime` out of a request; return what makes a tail of it when the observation is prepared."""
        if REALTIME not in observation:
            return lambda _: None
        said, make = observation.pop(REALTIME), self._tail
        if make is None:
            raise RealTimeError(f"{REALTIME}: the policy of this server cannot continue a chunk; ask without it")
        asked = read(said, self._last.get(connection))

        def join(inputs: Inputs) -> Joined | None:
            with refused_by_name():
                tail = make(inputs, asked.previous, asked.delay, asked.execution_horizon)
                # Refused here, and not in the middle of a batch with others.
                steering(tail, asked.how or self._how, horizon=self.noise_shape[0], max_delay=self._max_delay)
            return None if tail is None else Joined(tail, asked.how)

        return join

    def _checked(self, noise: Any) -> np.ndarray:
        if not (isinstance(noise, np.ndarray) and noise.dtype.kind == "f" and noise.shape == self.noise_shape):
            found = f"{noise.dtype} of shape {noise.shape}" if isinstance(noise, np.ndarray) else type(noise).__name__
            raise InputError(f"{NOISE}: {found}; this policy starts from floats of shape {self.noise_shape}")
        with np.errstate(over="ignore"):
            single = noise.astype(np.float32)
        if not np.isfinite(single).all():
            raise InputError(f"{NOISE}: not finite everywhere")
        return single


def _check_lists(value: Any, key: str) -> None:
    """Let a list be a state and never a picture: openpi's clients send pictures as arrays.

    Raises:
        InputError: a list of anything but numbers.
    """
    if isinstance(value, Mapping):
        for inner, content in value.items():
            _check_lists(content, f"{inner:.100}" if isinstance(inner, str) else key)
    elif isinstance(value, list) and not all(isinstance(item, int | float | np.number) for item in value):
        raise InputError(f"{key}: a list of more than numbers; pictures and matrices are sent as numpy arrays")


def noise_seed(seed: int, connection: int, number: int) -> int:
    """Seed of one request's noise, 63 bits: the same server, asked the same in the same order, answers the same."""
    text = f"{seed}/{connection}/{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
