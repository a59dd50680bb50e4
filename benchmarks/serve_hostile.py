"""Does a stranger who sends 30 MB of hostile bytes every second slow a robot or `/healthz` down?

    python benchmarks/serve_hostile.py [--policy tiny-libero] [--out benchmarks/results/serve_hostile.json]

The server has one inference thread. The robot, the stranger and the prober of `/healthz` are processes of their own.
Turns with and without the stranger alternate, because machines have moods. The messages rotate through every kind in
`hostile()`, each of 30 MB. None is an observation that the policy accepts.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common.results import keep, stamp
from websockets.sync.client import connect

from vlapack import __version__
from vlapack.checkpoints import SHIPPED
from vlapack.console import say
from vlapack.errors import WorkError
from vlapack.observations.folder import load_observations
from vlapack.policy.policy import Policy
from vlapack.serve.wire import pack, unpack

RESULTS = Path(__file__).parent / "results" / "serve_hostile.json"
OBSERVATIONS = SHIPPED["tiny-libero"] / "observations"
MESSAGE_BYTES = 30_000_000
EVERY_SECONDS = 1.0
PROBE_SECONDS = 0.05
HEALTHZ_LIMIT_MS = 100
GROWTH_LIMIT_MS = 100

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
TEXT, BINARY, PING, CONTINUED = 1, 2, 9, 0


def frame(content: bytes, opcode: int = BINARY, *, last: bool = True) -> bytes:
    """Return a client's websocket frame; the mask is zero, so that the stranger need not compute."""
    head, length = bytes([0x80 * last | opcode]), len(content)
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 1 << 16:
        head += b"\xfe" + struct.pack(">H", length)
    else:
        head += b"\xff" + struct.pack(">Q", length)
    return head + bytes(4) + content


def lists(inner: bytes) -> bytes:
    """Return an observation whose one value is 28 lists of 1000 lists of 1000 items of one byte."""
    row = b"\xdc\x03\xe8" + inner * 1000
    return b"\x81\xa1a\xdc\x00\x1c" + (b"\xdc\x03\xe8" + row * 1000) * 28


def hostile() -> dict[str, bytes]:
    """Return what the stranger sends, by kind."""
    size = MESSAGE_BYTES
    state = np.zeros(8)
    return {
        "nested empty lists": frame(lists(b"\x90")),
        "nested empty maps": frame(lists(b"\x80")),
        "lists of numbers": frame(lists(b"\x01")),
        "lists in lists": frame(b"\x91" * size),
        "a long text": frame(b"\x81\xa6prompt\xdb" + struct.pack(">I", size) + "é".encode() * (size // 2)),
        "no msgpack": frame(b"\xc1" * size),
        "a picture of one row": frame(
            pack({"observation/image": np.zeros((1, size // 3, 3), np.uint8), "observation/state": state})
        ),
        "a picture of NaN": frame(
            pack(
                {
                    "observation/image": np.full((1000, size // 12000, 3), np.nan, np.float32),
                    "observation/wrist_image": np.zeros((8, 8, 3), np.uint8),
                    "observation/state": state,
                    "prompt": "x",
                }
            )
        ),
        "a state of millions": frame(pack({"observation/state": np.zeros(size // 8)})),
        "a text frame": frame("é".encode() * (size // 2), TEXT),
        "empty fragments": frame(b"", BINARY, last=False) + frame(b"", CONTINUED, last=False) * (size // 6),
        "empty pings": frame(b"", PING) * (size // 6),
        "tiny messages": frame(b"\x80") * (size // 7),
    }


def stranger(port: int, over: Event, results: Connection) -> None:
    """Send one hostile message every second, on a connection of its own, until `over`."""
    messages = hostile()
    results.send("ready")
    sent: Counter[str] = Counter()
    due = time.monotonic()
    # Whatever the server does with a connection is its own affair: reset, close, or leave the rest unread.
    while not over.is_set():
        kind = list(messages)[sent.total() % len(messages)]
        due += EVERY_SECONDS
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=EVERY_SECONDS) as own:
            own.sendall(HANDSHAKE + messages[kind])
            while (left := due - time.monotonic()) > 0:
                own.settimeout(left)
                if not own.recv(1 << 16):
                    break
        sent[kind] += 1
        over.wait(max(0, due - time.monotonic()))
    results.send(dict(sent))


def prober(port: int, over: Event, results: Connection) -> None:
    """Ask for `/healthz` again and again until `over`."""
    results.send("ready")
    seconds = []
    while not over.is_set():
        start = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as response:
            assert response.read() == b"OK\n"
        seconds.append(time.perf_counter() - start)
        over.wait(PROBE_SECONDS)
    results.send(seconds)


def robot(port: int, message: bytes, requests: int, results: Connection) -> None:
    """Ask `requests` times, one after the other; every answer must be the first one again."""
    with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as own:
        own.recv()
        own.send(message)
        first = unpack(own.recv())["actions"]
        results.send("ready")
        seconds = []
        for _ in range(requests):
            start = time.perf_counter()
            own.send(message)
            answer = unpack(own.recv())
            seconds.append(time.perf_counter() - start)
            np.testing.assert_allclose(answer["actions"], first, atol=1e-5)
    results.send(seconds)


def begin(work: Callable[..., None], *arguments: Any) -> tuple[multiprocessing.Process, Connection]:
    """Start a client in a process of its own; return it as soon as it is ready."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(*arguments, there), daemon=True)
    process.start()
    assert here.recv() == "ready"
    return process, here


def turn(port: int, message: bytes, requests: int, *, attacked: bool) -> tuple[list[float], list[float], Counter[str]]:
    """Return the robot's seconds, the prober's, and what the stranger sent, if it was there."""
    over = multiprocessing.get_context("spawn").Event()
    attacker = begin(stranger, port, over) if attacked else None
    probing = begin(prober, port, over)
    asking = begin(robot, port, message, requests)
    answers = asking[1].recv()
    over.set()
    probes = probing[1].recv()
    sent = Counter(attacker[1].recv() if attacker else {})
    for process, _ in filter(None, (attacker, probing, asking)):
        process.join()
    return answers, probes, sent


def milliseconds(seconds: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1000
    return {
        "count": len(seconds),
        "p50": round(float(p50), 1),
        "p95": round(float(p95), 1),
        "p99": round(float(p99), 1),
        "max": round(max(seconds) * 1000, 1),
    }


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has held so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def main(*, policy: str = "tiny-libero", out: Path = RESULTS, requests: int = 500, turns: int = 4) -> None:
    """Serve `policy` and measure; write the result as JSON.

    Args:
        policy: A pack, or tiny-libero.
        out: The result.
        requests: How often the robot asks with the stranger there, and as often without.
        turns: Over how many turns each of the two is spread.
    """
    known = Policy.from_pretrained(policy)
    noise = np.random.default_rng(0).normal(size=known.noise_shape)
    message = pack(load_observations(OBSERVATIONS)[0] | {"noise": noise})
    del known
    command = [sys.executable, "-m", "vlapack.cli", "serve", policy, "--port", "0"]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    seen: dict[bool, tuple[list[float], list[float]]] = {False: ([], []), True: ([], [])}
    sent: Counter[str] = Counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ) as server:
        assert server.stdout is not None
        event = json.loads(server.stdout.readline())
        peaks = []
        try:
            for number in range(2 * turns):
                attacked = bool(number % 2)
                answers, probes, thrown = turn(event["port"], message, -(-requests // turns), attacked=attacked)
                seen[attacked][0].extend(answers)
                seen[attacked][1].extend(probes)
                sent += thrown
                peaks.append(peak_mb(server.pid))
                say(
                    f"turn {number + 1}, {'attacked' if attacked else 'quiet'}: robot {milliseconds(answers)}, "
                    f"healthz {milliseconds(probes)}"
                )
        finally:
            server.terminate()
        code = server.wait()
    if code != 0:
        raise WorkError(f"the server ended with exit code {code}")
    quiet, attacked_ = ({"robot_ms": milliseconds(a), "healthz_ms": milliseconds(p)} for a, p in seen.values())
    growth = attacked_["robot_ms"]["p99"] - quiet["robot_ms"]["p99"]
    document = {
        "question": "Does a stranger who sends 30 MB of hostile bytes every second slow a robot or /healthz down?",
        "policy": policy,
        "engine": event["engine"],
        "inference_threads": 1,
        "quiet": quiet,
        "attacked": attacked_,
        "p99_growth_ms": round(growth, 1),
        "healthz_within_100_ms": attacked_["healthz_ms"]["max"] <= HEALTHZ_LIMIT_MS,
        "healthz_over_100_ms": sum(second * 1000 > HEALTHZ_LIMIT_MS for second in seen[True][1]),
        "p99_growth_within_100_ms": growth <= GROWTH_LIMIT_MS,
        "server_peak_mb": {"quiet": round(peaks[0]), "in_the_end": round(peaks[-1])},
        "hostile_messages": dict(sent),
        "message_bytes": MESSAGE_BYTES,
        "vlapack": __version__,
        **stamp(),
        "load_average": os.getloadavg()[1],  # what else the machine did in the last five minutes, this included
    }
    keep(document, out)


if __name__ == "__main__":
    tyro.cli(main)
