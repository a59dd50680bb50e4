"""How long does one action chunk of tiny-libero take, float and packed, and what does each hold in memory?

    python benchmarks/chunk_time.py [--chunks 40]

The policies take turns on the same recorded observation, chunk by chunk, so that whatever else the machine does meets
all of them alike; quartiles say how much it did.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import torch
import tyro

from vlapack import Policy
from vlapack.commands.quantize import quantize
from vlapack.console import stdout
from vlapack.observations.folder import SHIPPED_OBSERVATIONS, load_observations
from vlapack.ops.engine import active

PARENT = "tiny-libero"
PRESETS = ("llm", "full")
WARM_UP = 3


def main(chunks: int = 40) -> None:
    """Measure.

    Args:
        chunks: Timed chunks per policy.
    """
    observation = load_observations(SHIPPED_OBSERVATIONS)[0]
    policies = {"float": Policy.from_pretrained(PARENT)}
    with tempfile.TemporaryDirectory() as folder:
        for preset in PRESETS:
            quantize(PARENT, preset=preset, out=Path(folder) / preset)
            policies[preset] = Policy.from_pretrained(Path(folder) / preset)
        times: dict[str, list[float]] = {name: [] for name in policies}
        for number in range(chunks + WARM_UP):
            for name, policy in policies.items():
                start = time.perf_counter()
                policy.infer(observation)
                if number >= WARM_UP:
                    times[name].append((time.perf_counter() - start) * 1e3)
    stdout.print(f"{PARENT}, engine {active()}, {torch.get_num_threads()} threads, {chunks} chunks each")
    for name, milliseconds in times.items():
        low, middle, high = statistics.quantiles(milliseconds, n=4)
        held = policies[name].held_bytes() / 1e6
        stdout.print(f"{name:6s} {middle:7.1f} ms (quartiles {low:.1f}-{high:.1f})  {held:7.2f} MB held")


if __name__ == "__main__":
    tyro.cli(main)
