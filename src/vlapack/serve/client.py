"""A policy behind a server, as a policy here: for simulators whose machine or interpreter holds no weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import connect

from vlapack.errors import InputError, WorkError
from vlapack.serve.access import KEY_VARIABLE
from vlapack.serve.server import ENGINE_HEADER, NOISE_HEADER
from vlapack.serve.wire import pack, unpack


class RemotePolicy:
    """One connection to a policy server, ours or openpi's.

    Args:
        url: ws://HOST:PORT, or wss://HOST:PORT.

    Raises:
        InputError: nobody listens there, or the key (`VLAPACK_API_KEY`) is not the server's.

    Attributes:
        metadata: what the server sent on connect.
        engine: the server's, or None of a server that is not ours.
        noise_shape: of the noise that the server takes, or None of a server that is not ours.
    """

    def __init__(self, url: str) -> None:
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Api-Key {key}"} if key else None
        self.url = url
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
        self.metadata = unpack(self._received())
        response = self._socket.response
        sent = {} if response is None else response.headers
        self.engine: str | None = sent.get(ENGINE_HEADER)
        shape = sent.get(NOISE_HEADER)
        self.noise_shape = None if shape is None else tuple(int(size) for size in shape.split(","))

    def infer(self, observation: Mapping[str, Any], *, generator: torch.Generator | None = None) -> dict[str, Any]:
        """Ask for the next actions.

        Args:
            observation: the layout's keys, as the policy takes them in process.
            generator: noise is drawn from it, where the server takes any; else the server draws its own.

        Raises:
            WorkError: the server refused the observation, failed, or is gone.
        """
        message = dict(observation)
        if generator is not None and self.noise_shape is not None:
            message["noise"] = torch.randn(self.noise_shape, generator=generator).numpy()
        try:
            self._socket.send(pack(message))
        except ConnectionClosed as error:
            raise self._gone(error) from error
        return unpack(self._received())

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
            answer = self._socket.recv()
        except ConnectionClosed as error:
            raise self._gone(error) from error
        if isinstance(answer, str):
            raise WorkError(f"{self.url}: {answer}")
        return bytes(answer)

    def _gone(self, error: ConnectionClosed) -> WorkError:
        return WorkError(f"{self.url}: the server is gone ({error})")
