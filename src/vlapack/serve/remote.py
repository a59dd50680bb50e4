"""A policy behind a server, as a policy here: for simulators whose machine or interpreter holds no weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import connect

from vlapack.errors import InputError, WorkError
from vlapack.policy.rtc import RealTime
from vlapack.serve.access import KEY_VARIABLE
from vlapack.serve.realtime import REALTIME, request
from vlapack.serve.server import ENGINE_HEADER, NOISE_HEADER
from vlapack.serve.wire import pack, unpack


class RemotePolicy:
    """One connection to a policy server, ours or openpi's.

    Args:
        url: ws://HOST:PORT, or wss://HOST:PORT
        timeout: seconds after which a server that has not answered counts as gone; None: it is waited for

    Raises:
        InputError: nobody listens there, or the key (`VLAPACK_API_KEY`) is not the server's

    Attributes:
        metadata: what the server sent on connect
        engine: the server's, or None of a server that is not ours
        noise_shape: of the noise that the server takes, or None of a server that is not ours
    """

    def __init__(self, url: str, *, timeout: float | None = None) -> None:
        self.url = url
        self._timeout = timeout
        self._connect()

    def _connect(self) -> None:
        self._overdue = False
        key, url = os.environ.get(KEY_VARIABLE), self.url
        headers = {"Authorization": f"Api-Key {key}"} if key else None
        self._open = ExitStack()
        try:
            self._socket = self._open.enter_context(
                connect(url, compression=None, max_size=None, additional_headers=headers)
            )
        except InvalidStatus as error:
            status = error.response.status_code
            remedy = f"; set {KEY_VARIABLE} to the server's key" if status == 401 else ""
            raise InputError(f"{url}: the server answered {status}{remedy}") from error
        except (OSError, InvalidURI, InvalidHandshake) as error:  # TimeoutError is an OSError
            raise InputError(f"{url}: no policy server ({error}); start one with `vlapack serve POLICY`") from error
        self._greeting = self._received()
        self.metadata = unpack(self._greeting)
        response = self._socket.response
        sent = {} if response is None else response.headers
        self.engine: str | None = sent.get(ENGINE_HEADER)
        shape = sent.get(NOISE_HEADER)
        self.noise_shape = None if shape is None else tuple(int(size) for size in shape.split(","))

    @property
    def continues(self) -> bool:
        """Whether the server continues a previous chunk: `infer` then takes `previous`."""
        return REALTIME in self.metadata

    @property
    def max_delay(self) -> int:
        """As `Policy.max_delay`, of the server's policy."""
        return int(self.metadata.get(REALTIME, {}).get("max_delay", 0))

    def infer(
        self,
        observation: Mapping[str, Any],
        *,
        generator: torch.Generator | None = None,
        previous: np.ndarray | None = None,
        delay: int = 0,
        execution_horizon: int | None = None,
        realtime: RealTime | None = None,
    ) -> dict[str, Any]:
        """Ask for the next actions.

        Args:
            observation: the layout's keys, as the policy takes them in process
            generator: noise is drawn from it, where the server takes any; else the server draws its own
            previous: as in `Policy.infer`, and so are the other three
            delay: as there
            execution_horizon: as there
            realtime: as there

        Raises:
            InputError: `previous` and what goes with it cannot be used, or not by this server
            WorkError: the server refused the observation, failed, or is gone
        """
        if self._overdue:  # what comes next may be the answer to an older observation
            raise WorkError(f"{self.url}: an answer is overdue; `reconnect` first")
        message = dict(observation)
        if previous is not None:
            if not self.continues:
                raise InputError(
                    f"{self.url}: this server cannot continue a chunk (its metadata has no {REALTIME!r}): serve the "
                    "policy with `vlapack serve`, or ask without `previous`"
                )
            message[REALTIME] = request(previous, delay, execution_horizon, realtime)
        if generator is not None and self.noise_shape is not None:
            message["noise"] = torch.randn(self.noise_shape, generator=generator).numpy()
        try:
            self._socket.send(pack(message))
        except ConnectionClosed as error:
            raise self._gone(error) from error
        return unpack(self._received())

    def reconnect(self) -> None:
        """Leave the connection, and make another one to the same server.

        Raises:
            WorkError: nobody listens there
            InputError: another policy is served there now
        """
        greeting, metadata = self._greeting, self.metadata
        self.close()
        try:
            self._connect()
        except InputError as error:
            raise WorkError(str(error)) from error
        if self._greeting != greeting:
            found, self._greeting, self.metadata = self.metadata, greeting, metadata
            self.close()
            raise InputError(f"{self.url}: another policy is served there now: {found}, before {metadata}")

    def held_bytes(self) -> int:
        """None of the weights are held here."""
        return 0

    def mapped_bytes(self) -> int:
        """None of them are mapped here."""
        return 0

    def close(self) -> None:
        """Say goodbye."""
        self._open.close()

    def _received(self) -> bytes:
        try:
            answer = self._socket.recv(timeout=self._timeout)
        except TimeoutError as error:
            self._overdue = True
            raise WorkError(f"{self.url}: no answer within {self._timeout:g} s") from error
        except ConnectionClosed as error:
            raise self._gone(error) from error
        if isinstance(answer, str) and answer.startswith(f"{REALTIME}: "):  # the connection stays
            raise InputError(f"{self.url}: {answer}")
        if isinstance(answer, str):
            raise WorkError(f"{self.url}: {answer}")
        return bytes(answer)

    def _gone(self, error: ConnectionClosed) -> WorkError:
        return WorkError(f"{self.url}: the server is gone ({error})")
