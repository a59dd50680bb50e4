"""How long does a full-size π0.5 take for an action chunk: openpi's class, our float runtime, packed policies?

    python benchmarks/chunk.py FOLDER [--openpi openpi-env/bin/python] [--contenders float,full] [--dtype bfloat16]

FOLDER holds the parent and a pack for each preset: about 16 GB; a synthetic parent is written where there is none, and
packs are made by their weights alone, which costs the same time and memory as any. All see one LIBERO observation. Two
float policies may not fit into memory side by side, so whole processes take turns, A B A B, each with a chunk to warm
up and at least three that count. openpi's class runs in an environment of its own (scripts/openpi_reference.py).
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import synthetic_pi05
import torch
import tyro
from safetensors.torch import save_file

from vlapack import machine
from vlapack.bench.floor import operations, peak
from vlapack.bench.race import race, started
from vlapack.bench.worker import FLOAT, Task
from vlapack.checkpoints import open_checkpoint
from vlapack.console import say
from vlapack.ops import engine
from vlapack.pi0.load import build
from vlapack.policy.layouts import layout_of
from vlapack.policy.policy import Policy

ROOT = Path(__file__).parents[1]
OPENPI = "openpi"
PROMPT = "pick up the black bowl on the stove"
"""Of twenty tokens, about, as LIBERO's instructions are."""


def main(
    folder: tyro.conf.Positional[Path],
    *,
    contenders: str = f"{OPENPI},{FLOAT},full",
    openpi: Path | None = None,
    dtype: Literal["float32", "bfloat16"] = "bfloat16",
    rounds: int = 2,
    chunks: int = 3,
    threads: int = 2,
    config: str = "pi05_libero",
    result: Path | None = None,
) -> None:
    """Measure.

    Args:
        folder: Where there are 16 GB to spare; parent and packs stay in it.
        contenders: openpi, float, and presets, with commas; each preset is packed on first use.
        openpi: The Python of openpi's environment; without it openpi's class does not take part.
        dtype: Of the float arithmetic, openpi's too.
        rounds: Turns of each.
        chunks: Of each that count, per turn.
        threads: How many work.
        config: Of the parent.
        result: The JSON file. Default: benchmarks/results/chunk-<isa>.json.
    """
    parent = folder / config
    if not parent.exists():
        synthetic_pi05.main(parent, config=config)
    inputs = folder / "inputs.safetensors"
    needed = _prepare(parent, config, inputs)
    commands = {}
    for name in contenders.split(","):
        if name != OPENPI:
            commands[name] = _ours(name, parent, config, dtype, threads)
        elif openpi is not None:
            arguments = (config, parent / "model.safetensors", inputs, dtype, threads)
            script = Path(__file__).with_name("openpi_worker.py")
            paths = f"PYTHONPATH={ROOT / 'src'}:{ROOT / 'scripts'}"
            commands[name] = ["env", paths, str(openpi), str(script), *map(str, arguments)]
    rows: dict[str, dict[str, Any]] = {}
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            say(f"round {number + 1}: {name}")
            with started({name: command}) as (runner,):
                race([runner], chunks)
                seen[name] += runner.chunks
                runner.chunks = seen[name]
                rows[name] = runner.result()
    torch.set_num_threads(threads)
    reached, with_what = peak(None, threads)
    document = {
        "question": "How long does a full-size π0.5 take for an action chunk?",
        "parent": f"{config}, synthetic",
        "dtype": dtype,
        "threads": threads,
        "engine": engine.described(),
        "processes": f"one at a time, {rounds} turns of {chunks} chunks each",
        "machine": machine.describe(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": _commit(),
        "rows": list(rows.values()),
        "times_faster_than": _ratios(rows),
        "floor": {"ops": needed, "peak_ops_per_s": reached, "peak_of": with_what, "seconds": needed / reached},
    }
    isa = engine.kernels.isa() if engine.active() == "cpu" else "reference"
    place = result or Path(__file__).parent / "results" / f"chunk-{isa}.json"
    place.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _prepare(parent: Path, config: str, inputs: Path) -> int:
    """Write the network's inputs for openpi's class, and return how many operations they need."""
    checkpoint = open_checkpoint(parent, config=config)
    tokenizer, normalization = checkpoint.tokenizer, checkpoint.normalization
    assert tokenizer is not None
    assert normalization is not None
    policy = Policy(
        build(checkpoint.config.architecture), checkpoint.config, normalization=normalization, tokenizer=tokenizer
    )
    shown = policy.observe({**layout_of(policy.config).example(), "prompt": PROMPT})
    architecture = policy.config.architecture
    shape = (1, architecture.action_horizon, architecture.action_dim)
    names = ("images", "image_masks", "tokens", "token_masks", "state")
    tensors = dict(zip(names, shown.network, strict=True)) | {
        "noise": torch.randn(shape, generator=torch.Generator().manual_seed(0))
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, inputs)
    return operations(architecture, int(shown.image_masks.sum()), int(shown.token_masks.sum()))


def _ours(name: str, parent: Path, config: str, dtype: str, threads: int) -> list[str]:
    """The worker of our runtime, float or packed."""
    target = parent
    if name != FLOAT:
        target = parent.with_name(f"chunk-{name}")
        if not target.exists():
            flags = ["--config", config, "--preset", name, "--weights-only", "--out", str(target)]
            subprocess.run([sys.executable, "-m", "vlapack.cli", "quantize", str(parent), *flags], check=True)
    return Task(str(target), config=config, dtype=dtype, prompt=PROMPT, threads=threads).command()


def _ratios(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times as fast as each other one every contender is."""
    medians = {name: row["ms_per_chunk"]["median"] for name, row in rows.items()}
    return {
        name: {other: medians[other] / mine for other in medians if other != name} for name, mine in medians.items()
    }


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    tyro.cli(main)
