"""How long does a full-size π0.5 take for an action chunk: openpi's class, our float runtime, packed policies?

    python benchmarks/chunk.py FOLDER --openpi openpi-env/bin/python

FOLDER holds the parent and a pack for each preset: about 13 GB; a synthetic parent is written where there is none, and
packs are made by their weights alone, which costs the same time and memory as any. All see one LIBERO observation. Two
float policies may not fit into memory side by side, so whole processes take turns, A B A B, each with a chunk to warm
up; their files are read once before, so that loading finds them in memory. openpi's class runs in an environment of its
own (scripts/openpi_reference.py). tiny-libero and its pack, which fit, take turns chunk by chunk.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import synthetic_pi05
import torch
import tyro
from common.results import ROOT, isa, stamp
from safetensors.torch import save_file

from vlapack import Policy, open_checkpoint
from vlapack.bench.floor import operations, peak
from vlapack.bench.race import race, started
from vlapack.bench.worker import FLOAT, BenchTask
from vlapack.checkpoints.assets import WEIGHTS_FILE
from vlapack.console import say
from vlapack.machine.cpu import describe_machine
from vlapack.ops import engine
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.load import build

OPENPI = "openpi"
CONTENDERS = f"{OPENPI}@bfloat16,{OPENPI}@float32,{FLOAT}@bfloat16,full@bfloat16,everything@bfloat16"
PROMPT = "pick up the black bowl on the stove"
"""Of twenty tokens, about, as LIBERO's instructions are."""
SMALL, SMALL_CHUNKS = "tiny-libero", 40
BLOCK = 1 << 24


def main(
    folder: tyro.conf.Positional[Path],
    *,
    contenders: str = CONTENDERS,
    openpi: Path | None = None,
    rounds: int = 2,
    chunks: int = 2,
    threads: int = 2,
    config: str = "pi05_libero",
    result: Path | None = None,
) -> None:
    """Measure.

    Args:
        folder: Where there are 13 GB to spare; parent and packs stay in it.
        contenders: openpi, float or a preset, @ the dtype of its float arithmetic, with commas; a preset is packed on
            first use.
        openpi: The Python of openpi's environment; without it openpi's class does not take part.
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
    architecture, needed = _prepare(parent, config, inputs)
    commands, weights = {}, {}
    for name in contenders.split(","):
        kind, _, dtype = name.partition("@")
        if kind == OPENPI and openpi is None:
            continue
        target = parent if kind in (OPENPI, FLOAT) else _packed(parent, config, kind)
        weights[name] = target / WEIGHTS_FILE
        if kind == OPENPI:
            words = (json.dumps(architecture.to_dict()), weights[name], inputs, dtype, threads)
            paths = f"PYTHONPATH={ROOT / 'src'}:{ROOT / 'scripts'}"
            script = Path(__file__).with_name("openpi_worker.py")
            commands[name] = ["env", paths, str(openpi), str(script), *map(str, words)]
        else:
            commands[name] = BenchTask(
                str(target), config=config, dtype=dtype, prompt=PROMPT, threads=threads
            ).command()
    torch.set_num_threads(threads)
    rows: dict[str, dict[str, Any]] = {}
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    reached, with_what = 0.0, ""
    for number in range(rounds):
        now, with_what = peak(None, threads)
        reached = max(reached, now)
        for name, command in commands.items():
            say(f"round {number + 1}: {name}")
            _into_memory(weights[name])
            with started({name: command}) as (runner,):
                race([runner], chunks)
                seen[name] += runner.chunks
                runner.chunks = seen[name]
                rows[name] = runner.result()
    document = {
        "question": "How long does a full-size π0.5 take for an action chunk?",
        "cpu": describe_machine()["cpu"],
        "isa": isa(),
        "engine": engine.described(),
        "threads": threads,
        **stamp(),
        "parent": f"{config}, synthetic",
        "processes": f"one at a time, {rounds} turns of {chunks} chunks each, after one that does not count",
        "rows": list(rows.values()),
        "times_as_fast_as": _ratios(rows),
        "floor": {
            "ops": needed,
            "peak_ops_per_s": reached,
            "peak_of": with_what,
            "seconds": needed / reached,
            "times_floor": {
                name: row["ms_per_chunk"]["median"] / 1e3 / (needed / reached)
                for name, row in rows.items()
                if name.partition("@")[0] not in (OPENPI, FLOAT)
            },
        },
        "small": _small(folder, threads),
    }
    place = result or Path(__file__).parent / "results" / f"chunk-{isa()}.json"
    place.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _prepare(parent: Path, config: str, inputs: Path) -> tuple[Pi0Config, int]:
    """Write the network's inputs for openpi's class; return its sizes, and how many operations these inputs need."""
    checkpoint = open_checkpoint(parent, config=config)
    tokenizer, normalization = checkpoint.tokenizer, checkpoint.normalization
    assert tokenizer is not None
    assert normalization is not None
    architecture = checkpoint.config.architecture
    policy = Policy(build(architecture), checkpoint.config, normalization=normalization, tokenizer=tokenizer)
    shown = policy.observe({**policy.example(), "prompt": PROMPT})
    names = ("images", "image_masks", "tokens", "token_masks", "state")
    tensors = dict(zip(names, shown.network, strict=True)) | {
        "noise": torch.randn(1, *policy.noise_shape, generator=torch.Generator().manual_seed(0))
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, inputs)
    return architecture, operations(architecture, int(shown.image_masks.sum()), int(shown.token_masks.sum()))


def _packed(parent: Path | str, config: str | None, preset: str, folder: Path | None = None) -> Path:
    """The parent's pack of a preset, made where there is none."""
    target = (folder or Path(parent).parent) / f"{Path(parent).name}-{preset}"
    if not target.exists():
        flags = ["--preset", preset, "--weights-only", "--rounding", "rtn", "--out", str(target)]
        flags += [] if config is None else ["--config", config]
        subprocess.run([sys.executable, "-m", "vlapack.cli", "quantize", str(parent), *flags], check=True)
    return target


def _into_memory(file: Path) -> None:
    """Read a file once, so that the page cache has it."""
    with file.open("rb", buffering=0) as source:
        while source.read(BLOCK):
            pass


def _small(folder: Path, threads: int) -> dict[str, Any]:
    """The shipped policy, and how many times as fast its `full` pack is."""
    pack = _packed(SMALL, None, "full", folder)
    commands = {
        FLOAT: BenchTask(SMALL, threads=threads).command(),
        "full": BenchTask(str(pack), threads=threads).command(),
    }
    with started(commands) as runners:
        race(runners, SMALL_CHUNKS)
    rows = {runner.name: runner.result() for runner in runners}
    return {
        "policy": SMALL,
        "processes": f"both at a time, {SMALL_CHUNKS} chunks each in turns",
        "rows": list(rows.values()),
        "times_as_fast_as": _ratios(rows),
    }


def _ratios(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times as fast as each other one every contender is."""
    medians = {name: row["ms_per_chunk"]["median"] for name, row in rows.items()}
    return {
        name: {other: medians[other] / mine for other in medians if other != name} for name, mine in medians.items()
    }


if __name__ == "__main__":
    tyro.cli(main)
