"""How fast is a policy behind `vlapack serve`, for one robot and for many; and does every robot get its own answer?

    python benchmarks/serve.py [--policy tiny-libero] [--out benchmarks/results/serve.json]

The server is a process of its own. Each robot has its own observation and noise, so that its answers are known before:
every one is compared with what the policy gives in process, alone. Throughput is measured for one robot and for eight
in turns (A B A B: machines have moods), then 64 robots ask 100 times each.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common.results import keep, stamp
from websockets.asyncio.client import connect

from vlapack import Policy, __version__
from vlapack.console import say
from vlapack.errors import WorkError
from vlapack.observations.folder import SHIPPED_OBSERVATIONS, load_observations
from vlapack.serve.wire import pack, unpack

RESULTS = Path(__file__).parent / "results" / "serve.json"
PER_TURN = {1: 40, 8: 10}
"""Robots that ask in turns, and how often each asks in one turn."""


@dataclass(frozen=True, eq=False)
class Robot:
    """What one robot sends, and what it must get: actions [horizon, dims] of the policy alone."""

    message: bytes
    expected: np.ndarray


@dataclass(frozen=True)
class Load:
    """What came of so many robots asking so often."""

    robots: int
    requests: int
    seconds: float
    latencies: list[float]
    worst_difference: float
    mixed_up: int

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def to_dict(self) -> dict[str, Any]:
        p50, p95, p99 = np.percentile(self.latencies, [50, 95, 99]) * 1000
        return {
            "robots": self.robots,
            "requests": self.requests,
            "lost": self.requests - len(self.latencies),
            "mixed_up": self.mixed_up,
            "worst_difference": self.worst_difference,
            "requests_per_second": round(self.per_second, 2),
            "ms": {"p50": round(p50, 1), "p95": round(p95, 1), "p99": round(p99, 1)},
        }


def make_robots(policy: Policy, count: int) -> list[Robot]:
    """Give each robot an observation and a noise that no other has."""
    observations = load_observations(SHIPPED_OBSERVATIONS)
    draw = np.random.default_rng(0)
    robots = []
    for number in range(count):
        observation, noise = observations[number % len(observations)], draw.normal(size=policy.noise_shape)
        expected = policy.infer(observation, noise=noise)["actions"]
        robots.append(Robot(pack(observation | {"noise": noise}), expected))
    return robots


async def load(url: str, robots: Sequence[Robot], requests: int, *, tolerance: float) -> Load:
    """Let every robot ask `requests` times, one after the other, all robots at once."""
    latencies: list[float] = []
    differences: list[float] = []
    mixed_up = 0
    everyone = np.stack([robot.expected for robot in robots])

    async def work(own: int, robot: Robot) -> None:
        nonlocal mixed_up
        async with connect(url, compression=None, max_size=None) as socket:
            await socket.recv()
            for _ in range(requests):
                start = time.perf_counter()
                await socket.send(robot.message)
                answer = await socket.recv()
                latencies.append(time.perf_counter() - start)
                actions = unpack(answer)["actions"]
                difference = np.abs(everyone - actions).max(axis=(1, 2))
                differences.append(float(difference[own]))
                mixed_up += bool(difference[own] > tolerance and difference.argmin() != own)

    start = time.perf_counter()
    await asyncio.gather(*(work(own, robot) for own, robot in enumerate(robots)))
    seconds = time.perf_counter() - start
    return Load(len(robots), len(robots) * requests, seconds, latencies, max(differences), mixed_up)


def main(
    *,
    policy: str = "tiny-libero",
    out: Path = RESULTS,
    robots: int = 64,
    requests: int = 100,
    turns: int = 3,
    max_batch: int = 8,
) -> None:
    """Serve `policy` and measure; write the result as JSON.

    Args:
        policy: A pack, or tiny-libero.
        out: The result.
        robots: How many ask at once in the end.
        requests: How often each of them asks.
        turns: How often one robot and eight are measured before.
        max_batch: The server's.
    """
    known = Policy.from_pretrained(policy)
    crowd = make_robots(known, robots)
    own = [np.abs(a.expected - b.expected).max() for n, a in enumerate(crowd) for b in crowd[:n]]
    say(f"{robots} robots; two of them differ by {min(own):.3g} at least")
    command = [sys.executable, "-m", "vlapack.cli", "serve", policy, "--port", "0", "--max-batch", str(max_batch)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        event = json.loads(server.stdout.readline())
        url = f"ws://{event['host']}:{event['port']}"
        # Packs amplify rounding: there, an answer is mixed up if it is nearer to another robot's.
        tolerance = 1e-4 if event["policy"] == "tiny-libero" else 0.0
        few: dict[int, list[Load]] = {count: [] for count in PER_TURN}
        for turn in range(turns):
            for count, each in PER_TURN.items():
                few[count].append(asyncio.run(load(url, crowd[:count], each, tolerance=tolerance)))
                say(f"turn {turn + 1}: {count} robots: {few[count][-1].per_second:.1f} a second")
        everyone = asyncio.run(load(url, crowd, requests, tolerance=tolerance))
        server.terminate()
        code = server.wait()
    if code != 0:
        raise WorkError(f"the server ended with exit code {code}")
    rate = {count: float(np.median([one.per_second for one in seen])) for count, seen in few.items()}
    document = {
        "question": "How fast is a served policy, for one robot and for many, and does each get its own answer?",
        "policy": policy,
        "engine": event["engine"],
        "max_batch": max_batch,
        "one_robot": {"requests_per_second": round(rate[1], 2), "turns": [one.to_dict() for one in few[1]]},
        "eight_robots": {"requests_per_second": round(rate[8], 2), "turns": [one.to_dict() for one in few[8]]},
        "eight_over_one": round(rate[8] / rate[1], 2),
        "crowd": everyone.to_dict(),
        "smallest_distance_of_two_robots": round(float(min(own)), 5),
        "vlapack": __version__,
        **stamp(),
        "load_average": os.getloadavg()[1],  # what else the machine did in the last five minutes, this included
    }
    keep(document, out)


if __name__ == "__main__":
    tyro.cli(main)
