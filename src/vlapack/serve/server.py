"""openpi's websocket protocol: metadata on connect, then one answer per observation; on failure a text frame and close.

Only what is wrong with `realtime` (`serve.realtime`) does not close the connection.

Beside it, on the same port, two plain HTTP requests: `/healthz` (open to all) and `/metrics` (with the key).
"""

from __future__ import annotations

import asyncio
import http
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from vlapack import __version__
from vlapack.console import say
from vlapack.errors import InputError, WorkError
from vlapack.serve.access import cannot_listen
from vlapack.serve.connection import Connection, has_left, peer
from vlapack.serve.door import Door
from vlapack.serve.metrics import Metrics
from vlapack.serve.realtime import RealTimeError
from vlapack.serve.service import BusyError, Service
from vlapack.serve.trouble import DeviceLostError

NOISE_HEADER = "X-Vlapack-Noise"
"""Response header of the handshake: horizon and action_dim, so that a client can send noise. openpi's ignore it."""

ENGINE_HEADER = "X-Vlapack-Engine"

MOST_CONNECTIONS = 512
MOST_ERROR_TEXT = 2000
PING_SECONDS = 20.0
# A simulator that builds a scene may hold its client's interpreter for half a minute.
PONG_SECONDS = 60.0
SEND_SECONDS = 30.0
CLOSE_SECONDS = 5.0
# So long, after the order to stop, a request is waited for that is on its way already.
LAST_CALL_SECONDS = 0.1


class Server:
    """Carries messages between clients and a `Service`.

    Args:
        service: answers requests.
        metrics: counts connections and outcomes; `/metrics` shows it.
        door: where it listens.
        engine: named to clients in a header of the handshake.
        debug: send clients the traceback of a failure, as openpi does, and log every connection.
    """

    def __init__(self, service: Service, metrics: Metrics, door: Door, *, engine: str, debug: bool = False) -> None:
        self._service = service
        self._metrics = metrics
        self._door = door
        self._engine = engine
        self._debug = debug
        self._connections = 0
        self._answered = 0
        # Every stranger's broken handshake would be a traceback on the terminal. websockets' own debug log is never
        # used: it contains the key.
        self._logger = logging.Logger("vlapack.serve", logging.ERROR if debug else logging.CRITICAL)
        self._logger.addHandler(_Log())

    async def run(self, stop: asyncio.Future[None], ready: Callable[[str, int], None]) -> int:
        """Serve until `stop` is done; requests under way are answered before this returns.

        Args:
            stop: settled by a signal handler, or by a test.
            ready: called with host and port as soon as clients can connect.

        Returns:
            How many requests were answered.

        Raises:
            InputError: the address cannot be listened on.
            DeviceLostError: the GPU failed; every client was told.
        """
        self._stop = stop
        door = self._door
        try:
            server = await serve(
                self._handle,
                door.host,
                door.port,
                ssl=door.tls,
                compression=None,
                # A web page in a browser on this machine could reach a loopback server; browsers say where they are.
                origins=[None],
                max_size=door.max_message_bytes,
                max_queue=1,
                ping_interval=PING_SECONDS,
                ping_timeout=PONG_SECONDS,
                close_timeout=CLOSE_SECONDS,
                process_request=self._plain_http,
                process_response=self._introduce,
                create_connection=Connection,
                server_header=f"vlapack/{__version__}",
                logger=self._logger,
            )
        except OSError as error:
            raise cannot_listen(door.host, door.port, error) from error
        work = asyncio.ensure_future(self._service.run())
        try:
            ready(door.host, next(iter(server.sockets)).getsockname()[1])
            await asyncio.wait([stop, work], return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not isinstance(work.exception(), DeviceLostError):
                work.result()  # it runs until it is cancelled: a bug ends the server aloud, not with robots that wait
            if not stop.done():  # the device is lost: who asked is told, and nobody is asked for more
                stop.set_result(None)
            server.close(close_connections=False)
            await server.wait_closed()
            if work.done():
                work.result()
        finally:
            work.cancel()
        return self._answered

    def _plain_http(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no handshake; refuse a handshake without the key, before anything of it is read."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not self._door.is_called_by(request):
            return connection.respond(
                http.HTTPStatus.FORBIDDEN,
                f"this server is called {self._door.host} or localhost, and does not answer web pages\n",
            )
        if not self._door.opens_for(request):
            self._metrics.refused.inc()
            response = connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "this server asks for a key: Authorization: Api-Key …\n"
            )
            response.headers["WWW-Authenticate"] = "Api-Key"
            return response
        if path == "/metrics":
            return connection.respond(http.HTTPStatus.OK, self._metrics.text())
        if self._service.robots >= MOST_CONNECTIONS:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    def _introduce(self, connection: ServerConnection, request: Request, response: Response) -> None:
        path = request.path.partition("?")[0]
        self._log(f"{peer(connection)}: GET {path:.100}: {response.status_code} {response.reason_phrase}")
        if response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS:
            response.headers[NOISE_HEADER] = ",".join(map(str, self._service.noise_shape))
            response.headers[ENGINE_HEADER] = self._engine

    async def _handle(self, socket: ServerConnection) -> None:
        connection = self._connections
        self._connections += 1
        self._service.robots += 1
        self._metrics.connections.inc()
        self._log(f"connection {connection}: open, from {peer(socket)}")
        try:
            await self._converse(socket, connection)
        except (ConnectionClosed, asyncio.TimeoutError):  # it has left, or does not read what it asked for
            socket.transport.abort()
        finally:
            self._service.robots -= 1
            self._service.forget(connection)
            self._metrics.connections.dec()
            self._log(f"connection {connection}: closed, code {socket.protocol.close_code}")

    async def _converse(self, socket: ServerConnection, connection: int) -> None:
        await self._send(socket, self._service.greeting)
        number, previous_s = 0, None
        while not self._stop.done():
            message = await self._next(socket)
            if message is None:
                break
            start = time.perf_counter()
            answer = await self._answer(socket, message, connection, number, previous_s)
            del message  # perhaps 30 MB, until the next one comes
            if answer is None:
                socket.transport.abort()
                return
            if isinstance(answer, RealTimeError):  # the robot is moving by the chunk that it has: it asks again
                await self._send(socket, self._explained(answer, connection))
                continue
            if isinstance(answer, BaseException):
                busy, text = isinstance(answer, BusyError), self._explained(answer, connection)
                del answer  # its traceback holds the message too, while the goodbye is waited for
                await self._send(socket, text)
                await socket.close(
                    CloseCode.TRY_AGAIN_LATER if busy else CloseCode.INTERNAL_ERROR, "see the last frame"
                )
                return
            await self._send(socket, answer)
            self._answered += 1
            number, previous_s = number + 1, time.perf_counter() - start
        await socket.close(CloseCode.GOING_AWAY, "the server stops")

    async def _next(self, socket: ServerConnection) -> bytes | str | None:
        """The client's next message; None if the server stops and none is on its way."""
        receive = asyncio.ensure_future(socket.recv())
        either: list[asyncio.Future[Any]] = [receive, self._stop]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not receive.done():
            await asyncio.wait([receive], timeout=LAST_CALL_SECONDS)
        if not receive.done():
            receive.cancel()
            return None
        message: bytes | str = receive.result()
        return message

    async def _answer(
        self, socket: ServerConnection, message: bytes | str, connection: int, number: int, previous_s: float | None
    ) -> bytes | BaseException | None:
        """The answer, or what went wrong: whatever that is, it concerns this client and not the server.

        None if the client leaves before: the network is not run for it, unless it runs already.
        """
        if has_left(socket):
            self._metrics.requests.labels("left").inc()
            return None
        if isinstance(message, str):
            self._metrics.requests.labels("bad_input").inc()
            return InputError("a text frame; observations are msgpack in binary frames")
        task = asyncio.ensure_future(
            self._service.answer(message, connection=connection, number=number, previous_s=previous_s)
        )
        gone = asyncio.ensure_future(socket.wait_closed())
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
        if task.cancelled():
            self._metrics.requests.labels("left").inc()
            self._log(f"connection {connection}: left before its answer")
            return None
        error = task.exception()
        self._metrics.requests.labels(_outcome(error)).inc()
        return task.result() if error is None else error

    async def _send(self, socket: ServerConnection, message: bytes | str) -> None:
        await asyncio.wait_for(socket.send(message), SEND_SECONDS)

    def _log(self, text: str) -> None:
        if self._debug:
            say(_printable(text))

    def _explained(self, error: BaseException, connection: int) -> str:
        """What the client is told. Only our own messages leave the house: they were written to be read."""
        full = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        if isinstance(error, InputError | WorkError):
            text = _printable(str(error)[:MOST_ERROR_TEXT])
            say(f"connection {connection}: {text}")
        else:
            text = "the policy failed; the server's own output says why"
            say(f"connection {connection}: {full}")
        return full if self._debug else text


class _Log(logging.Handler):
    """What websockets reports, in one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say which client it is about, and the reason."""
        client = peer(record.websocket) if hasattr(record, "websocket") else "the server"
        reason = f": {record.exc_info[1]}" if record.exc_info else ""
        say(_printable(f"{client}: {record.getMessage()}{reason}"[:MOST_ERROR_TEXT]))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _outcome(error: BaseException | None) -> str:
    match error:
        case None:
            return "answered"
        case InputError():
            return "bad_input"
        case BusyError():
            return "busy"
        case _:
            return "failed"
