"""What a client may cost the others: parsing in turns, refusals that can be read, requests that nobody waits for."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import pytest
from certificates import certificate
from running import Client, Echo, Running, running
from test_hostile import HANDSHAKE

from vlapack.serve import connection
from vlapack.serve import server as server_module
from vlapack.serve.access import tls_context
from vlapack.serve.connection import MOST_FRAGMENTS, TURN_SECONDS
from vlapack.serve.door import Door
from vlapack.serve.wire import pack

Stranger: TypeAlias = Callable[..., socket.socket]

MEGABYTE = 10**6


def frame(content: bytes = b"", opcode: int = 2, *, last: bool = True) -> bytes:
    """A client's frame with a mask of zeros."""
    head = bytes([0x80 * last | opcode])
    if len(content) < 126:
        return head + bytes([0x80 | len(content)]) + bytes(4) + content
    return head + b"\xff" + struct.pack(">Q", len(content)) + bytes(4) + content


def read(own: socket.socket) -> bytes:
    """Everything until the server has no more to say."""
    got = bytearray()
    with suppress(TimeoutError, ConnectionError):
        while data := own.recv(1 << 16):
            got += data
    return bytes(got)


def answers(own: socket.socket, count: int) -> bool:
    """Whether so many answers come."""
    got = b""
    while got.count(b"actions") < count and (data := own.recv(1 << 16)):
        got += data
    return got.count(b"actions") == count


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops without waiting for strangers who do not say goodbye."""
    monkeypatch.setattr(server_module, "CLOSE_SECONDS", 0.3)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """Opens a raw connection to a server and sends bytes; all are closed in the end."""
    opened: list[socket.socket] = []

    def connect(server: Running, data: bytes, timeout: float = 10) -> socket.socket:
        own = socket.create_connection(("127.0.0.1", server.port), timeout=timeout)
        opened.append(own)
        with suppress(ConnectionError, TimeoutError):  # the server may have closed before it has read everything
            own.sendall(data)
        return own

    yield connect
    for own in opened:
        own.close()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


FLOODS = {
    "pings": frame(opcode=9) * 100_000,
    "pongs": frame(opcode=10) * 100_000,
    "fragments": frame(last=False) + frame(opcode=0, last=False) * (MOST_FRAGMENTS - 1),
    "messages": frame(b"\x80") * 100_000,
    "nested lists": frame(b"\x81\xa1a\xdc\x03\xe8" + (b"\xdc\x03\xe8" + b"\x90" * 1000) * 1000),
    "a text": frame("é".encode() * MEGABYTE, 1),
}


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """CPU seconds of the event loops' callbacks; not wall time, since other programs may keep a test waiting."""
    seconds, original = [0.0], asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        start = time.thread_time()
        original(handle)
        seconds.append(time.thread_time() - start)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    gc.disable()  # a server freezes what it has loaded; a test has not
    yield seconds
    gc.enable()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
def test_what_one_client_sends_takes_the_loop_for_moments_only(
    stranger: Stranger, longest: list[float], flood: bytes
) -> None:
    with running(Echo()) as server:
        robot = server.client()
        attack = threading.Thread(target=stranger, args=(server, HANDSHAKE + flood))
        attack.start()
        for number in range(10):
            assert robot.infer({"number": number})["actions"][0, 0] == number
            assert server.get("/healthz") == "OK\n"
        assert max(longest) < 0.05
    attack.join()


@pytest.mark.usefixtures("impatient")
def test_a_flood_is_parsed_in_turns_and_to_its_end(stranger: Stranger, longest: list[float]) -> None:
    with running(Echo()) as server:
        assert answers(stranger(server, HANDSHAKE + frame(opcode=10) * 2000 + frame(pack({"number": 5}))), 1)
        assert max(longest) < 3 * TURN_SECONDS


@pytest.mark.usefixtures("impatient")
def test_a_message_of_endlessly_many_fragments_ends_its_connection(stranger: Stranger) -> None:
    with running(Echo()) as server:
        whole = frame(b"\x81\xa6num", last=False) + frame(opcode=0, last=False) * 1000 + frame(b"ber\x07", 0)
        assert answers(stranger(server, HANDSHAKE + whole), 1)
        endless = frame(last=False) + frame(opcode=0, last=False) * (2 * MOST_FRAGMENTS)
        assert b"fragments" in read(stranger(server, HANDSHAKE + endless))


@pytest.mark.usefixtures("impatient")
def test_pongs_that_nobody_reads_end_their_connection(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TURN_SECONDS", 1.0)  # the flood's own slowness is another test's matter
    with running(Echo()) as server:
        own = stranger(server, HANDSHAKE)
        own.settimeout(20)
        pings = frame(bytes(125), 9) * 100_000
        with pytest.raises(ConnectionError):
            own.sendall(pings)
        assert server.client().infer({"number": 1})["actions"][0, 0] == 1


BEHIND = {
    "nothing": b"",
    "a frame": frame(b"abcd"),
    "many frames": frame(b"abcd") * 1000,
    "a frame without a mask": b"\x82\x04abcd",
    "no frame": b"\xff" * 100,
    "a frame over the limit": frame(bytes(3 * MEGABYTE)),
    "more than buffers hold": frame(bytes(MEGABYTE)) * 20,
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND.keys())
def test_a_refusal_is_read_whatever_follows_the_handshake(stranger: Stranger, behind: bytes) -> None:
    with running(Echo(), door=Door(api_key="s3cret", max_message_bytes=2 * MEGABYTE)) as server:
        for size in (0, 1, 7, len(HANDSHAKE) - 1):  # in packets that end anywhere
            own = stranger(server, HANDSHAKE[:size])
            time.sleep(0.01)
            own.sendall(HANDSHAKE[size:] + behind)
            assert read(own).startswith(b"HTTP/1.1 401 ")
            own.close()


def test_a_refusal_is_read_over_tls_too(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(cert))
    with (
        running(Echo(), door=Door(api_key="s3cret", tls=tls_context(cert, key))) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as own,
    ):
        own.sendall(HANDSHAKE)
        own.sendall(frame(b"abcd") * 1000)
        time.sleep(0.1)
        own.sendall(frame(b"abcd") * 1000)
        assert own.recv(1 << 16).startswith(b"HTTP/1.1 401 ")


@pytest.mark.usefixtures("impatient")
def test_frames_right_behind_an_accepted_handshake_are_answered(stranger: Stranger) -> None:
    with running(Echo()) as server:
        assert answers(stranger(server, HANDSHAKE + frame(pack({"number": 1})) + frame(pack({"number": 2}))), 2)


def leave(client: Client, how: str) -> None:
    """Go away in the middle of a request."""
    if how == "goodbye":
        threading.Thread(target=client.socket.close).start()
    elif how == "end of stream":
        client.socket.socket.shutdown(socket.SHUT_WR)
    else:
        client.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.socket.shutdown(socket.SHUT_RDWR)
        client.socket.socket.close()


@pytest.mark.parametrize("how", ["goodbye", "end of stream", "hung up"])
def test_the_request_of_a_client_that_has_left_is_not_computed(how: str) -> None:
    echo = Echo(hold=threading.Event())
    with running(echo, max_batch=1) as server, ThreadPoolExecutor(1) as threads:
        first = threads.submit(server.client().infer, {"number": 1})
        wait_until(lambda: server.counted("vlapack_queue") == 1)
        clients = [server.client() for _ in range(3)]
        for client in clients:
            client.socket.send(pack({"number": 2}))
        wait_until(lambda: server.counted("vlapack_queue") == 4)
        for client in clients:
            leave(client, how)
        wait_until(lambda: server.counted("vlapack_queue") == 1)
        assert server.counted('vlapack_requests_total{outcome="left"}') == 3
        echo.hold.set()
        assert first.result()["actions"][0, 0] == 1
        assert server.client().infer({"number": 3})["actions"][0, 0] == 3
    assert echo.batches == [1, 1]


def test_requests_that_wait_behind_another_are_not_computed_for_nobody(stranger: Stranger) -> None:
    echo = Echo(hold=threading.Event())
    with running(echo, max_batch=1) as server:
        own = stranger(server, HANDSHAKE + frame(pack({"number": 1})) * 5)
        wait_until(lambda: server.counted("vlapack_queue") == 1)
        own.close()
        time.sleep(0.1)
        echo.hold.set()
        wait_until(lambda: server.counted("vlapack_connections") == 0)
        assert server.client().infer({"number": 3})["actions"][0, 0] == 3
    assert len(echo.batches) == 2


def test_a_batch_without_those_who_have_left_is_still_a_batch() -> None:
    echo = Echo()
    with running(echo, max_batch=3, wait_s=1.0) as server, ThreadPoolExecutor(2) as threads:
        robots = [server.client() for _ in range(2)]
        gone = server.client()
        gone.socket.send(pack({"number": 9}))
        wait_until(lambda: server.counted("vlapack_queue") == 1)
        leave(gone, "hung up")
        wait_until(lambda: server.counted("vlapack_queue") == 0)
        answers = threads.map(lambda n: robots[n].infer({"number": n})["actions"][0, 0], range(2))
        assert list(answers) == [0, 1]
    assert echo.batches == [2]
