"""Whatever strangers send, the server lives, its memory comes back, and a robot beside them is served."""

from __future__ import annotations

import base64
import os
import socket
import struct
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from process import Served, served
from running import Client
from small import random_observations
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from vlapack.policy.policy import Policy
from vlapack.serve.wire import pack

FRAMES_AT_ONCE = 20
QUICK, SLOW = 8, 520  # examples: 160 and 10,400 frames
LIMIT_MB = 4
GIGABYTE = 2**30
[GOOD] = random_observations(1)
HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n\r\n"
).encode()

ANY_ARRAY = hnp.arrays(
    st.sampled_from(["|b1", "|u1", "<i8", ">i4", "<f2", ">f4", "<f8"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
PICTURES = [
    np.full((32, 32, 3), np.nan),
    np.full((3, 8, 8), np.inf, dtype=np.float16),
    np.zeros((1, 100_000, 3), np.uint8),
    np.zeros((3, 3, 3), ">f8"),
    np.zeros((0, 4, 3), np.uint8),
    np.zeros((32, 32, 4), np.uint8),
    np.zeros((32, 32, 3), np.int64),
    [[[1, 2, 3]], [[1]]],
    {"deep": {"er": [{}]}},
]
VALUE = (
    ANY_ARRAY
    | st.sampled_from(PICTURES)
    | st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.just("x" * 100_000)
    | st.binary(max_size=20)
    | st.lists(st.floats() | st.text(max_size=3), max_size=9)
)
KEY = st.sampled_from([*GOOD, "noise", "image", "", "\x1b[2J"])
CLAIM = st.sampled_from(
    [
        b"\x81\xa1a\xc6\x40\x00\x00\x00abc",
        b"\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 50_000,
        b"\xdc\x04\x00" * 2000,
        *(
            msgpack.packb({"observation/image": {b"__ndarray__": True, b"data": b"", b"dtype": dtype, b"shape": shape}})
            for dtype in ("|u1", "<f8", "|O", "<U1000000", "<V8", "f4,O", "<M8[ns]")
            for shape in ([2**30], [2**62, 2**62], [-1], [0, 2**63 - 1], [1024] * 6)
        ),
    ]
)


@dataclass(frozen=True)
class Frame:
    """A message whose bytes a failing test does not print."""

    kind: str
    content: bytes | str = field(repr=False)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """One frame, of any kind."""
    kind = draw(st.sampled_from(["value", "missing", "cut", "flip", "claim", "bytes", "text", "large"]))
    return Frame(kind, draw(content(kind)))


@st.composite
def content(draw: st.DrawFn, kind: str) -> bytes | str:
    """One frame: a good observation gone wrong in one of many ways, or nothing like one."""
    match kind:
        case "value":
            return pack(GOOD | {draw(KEY): draw(VALUE) for _ in range(draw(st.integers(1, 3)))})
        case "missing":
            return pack({key: value for key, value in GOOD.items() if draw(st.booleans())})
        case "cut":
            return pack(GOOD)[: draw(st.integers(0, 6000))]
        case "flip":
            message = bytearray(pack(GOOD))
            for position in draw(st.lists(st.integers(0, 200), min_size=1, max_size=5)):
                message[position] = draw(st.integers(0, 255))
            return bytes(message)
        case "claim":
            return draw(CLAIM)
        case "bytes":
            return draw(st.binary(max_size=200))
        case "large":
            return bytes(LIMIT_MB * 2**20 + draw(st.integers(-1, 1)))
        case _:
            return draw(st.text(max_size=50))


RAW = {
    "a gigabyte's header": HANDSHAKE + b"\x82\xff" + struct.pack(">Q", GIGABYTE) + b"mask",
    "half a frame": HANDSHAKE + b"\x82\xfe\xff\xff" + b"mask" + b"x" * 100,
    "no mask": HANDSHAKE + b"\x82\x04abcd",
    "an opcode that is none": HANDSHAKE + b"\x8f\x80mask",
    "a huge ping": HANDSHAKE + b"\x89\xfe\xff\xffmask" + b"x" * 65535,
    "fragments of a text": HANDSHAKE + b"\x01\x81mask\x00" * 5,
    "a close of nonsense": HANDSHAKE + b"\x88\x81mask\x00",
    "half a handshake": HANDSHAKE[:60],
    "no handshake": os.urandom(300),
    "an endless header": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000,
    "an endless line": b"GET /" + b"a" * 100_000,
    "another method": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
}


def send_raw(server: Served, data: bytes) -> None:
    """Send bytes and hang up without a word."""
    with socket.create_connection((server.event["host"], server.event["port"]), timeout=10) as stranger:
        with suppress(ConnectionError):
            stranger.sendall(data)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye


def throw(server: Served, thrown: list[Frame], outcomes: Counter[str]) -> None:
    """Send frames, each answered, refused or closed upon."""
    remaining = list(thrown)
    while remaining:
        with connect(server.url, compression=None, max_size=None, open_timeout=30) as stranger:
            stranger.recv(timeout=30)
            try:
                while remaining:
                    stranger.send(remaining.pop().content)
                    answer = stranger.recv(timeout=30)
                    outcomes["refused" if isinstance(answer, str) else "answered"] += 1
                    if isinstance(answer, str):
                        assert len(answer) <= 2000
                        assert answer.isprintable(), answer
                        assert not any(word in answer for word in ("Traceback", ".py", str(Path.home()), "/tmp")), (
                            answer
                        )
                        break
            except ConnectionClosed:
                outcomes["closed"] += 1


def metric(server: Served, name: str) -> float:
    with urllib.request.urlopen(f"http://{server.url[5:]}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])


@contextmanager
def robot(server: Served, policy: Policy) -> Iterator[list[int]]:
    """A robot that works beside the strangers; every answer must be its own."""
    noise = np.random.default_rng(0).normal(size=policy.noise_shape)
    expected = policy.infer(GOOD, noise=noise)["actions"]
    over, count, wrong = threading.Event(), [0], []

    def work() -> None:
        with connect(server.url, compression=None) as own:
            client = Client(own)
            while not over.wait(0.05):
                actions = client.infer(GOOD | {"noise": noise})["actions"]
                if not np.allclose(actions, expected, atol=1e-4):
                    wrong.append(actions)
                count[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield count
    finally:
        alive = thread.is_alive()
        over.set()
        thread.join(60)
    assert alive
    assert not wrong
    assert count[0] > 0


@pytest.mark.parametrize("examples", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_no_bytes_bring_the_server_down(random_checkpoint: Path, tmp_path: Path, policy: Policy, examples: int) -> None:
    outcomes: Counter[str] = Counter()
    with served(tmp_path, str(random_checkpoint), "--max-message-mb", str(LIMIT_MB)) as server:
        loris = [socket.create_connection((server.event["host"], server.event["port"])) for _ in range(20)]
        for number, slow in enumerate(loris):
            slow.sendall((HANDSHAKE if number % 2 else HANDSHAKE[:-30]) + b"\x82\xfe\xff\xffmask"[: number // 2])
        throw(
            server, [Frame("good", pack(GOOD)), Frame("large", bytes(LIMIT_MB * 2**20))], Counter()
        )  # what is needed once is there
        before = metric(server, "process_resident_memory_bytes")

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(frames(), min_size=FRAMES_AT_ONCE, max_size=FRAMES_AT_ONCE), st.sampled_from(list(RAW)))
        def attack(thrown: list[Frame], raw: str) -> None:
            throw(server, thrown, outcomes)
            send_raw(server, RAW[raw])

        with robot(server, policy) as count:
            attack()
            for data in RAW.values():
                send_raw(server, data)
        for slow in loris:
            slow.close()
        grown = metric(server, "process_resident_memory_bytes") - before
        print(
            f"{sum(outcomes.values())} frames: {dict(outcomes)}; the robot's answers: {count[0]}; {grown / 1e6:.0f} MB"
        )
        assert sum(outcomes.values()) >= examples * FRAMES_AT_ONCE * 0.9
        assert min(outcomes[kind] for kind in ("answered", "refused", "closed")) > 0
        assert grown < 50e6
        assert metric(server, 'vlapack_requests_total{outcome="failed"}') == 0
        server.end()
