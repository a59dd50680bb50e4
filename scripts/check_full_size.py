"""π0.5 at full size in fp32: openpi's class and our network, same weights, same noise, one action chunk each.

The weights (14.5 GB) are drawn into a file that both map, so that neither run needs them in memory at once. From the
repository's root, with the environment of scripts/openpi_reference.py:

    python scripts/check_full_size.py draw /tmp/full
    PYTHONPATH=src:scripts openpi-env/bin/python scripts/check_full_size.py theirs /tmp/full
    python scripts/check_full_size.py ours /tmp/full
    python scripts/check_full_size.py compare /tmp/full benchmarks/results/parity_full_size.json
"""

from __future__ import annotations

import datetime
import json
import math
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from seeded import Inputs, random_inputs, seeded_tensor

from vlapack.pi0.config import CONFIGS

NAME = "pi05_libero"
SEED = 20
TOLERANCE = 1e-5


def inputs() -> Inputs:
    """One LIBERO-like observation: the third camera missing, 17 of 200 prompt slots used."""
    return random_inputs(CONFIGS[NAME], [[True, True, False]], [17], SEED)


def draw(folder: Path) -> None:
    """Write openpi's file tensor by tensor: safetensors is a JSON header and then the bytes in order."""
    from vlapack.pi0.names import openpi_tensors

    shapes = {name: shape for name, (shape, _) in openpi_tensors(CONFIGS[NAME]).items()}
    header: dict[str, dict[str, object]] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(memoryview(seeded_tensor(name, shape, SEED).numpy()).cast("B"))


def theirs(folder: Path) -> None:
    import openpi_reference as reference

    model = reference.mapped_model(CONFIGS[NAME], folder / "model.safetensors")
    start = time.process_time()
    actions, points, velocities = reference.sample(model, inputs())
    _save(folder / "theirs.safetensors", time.process_time() - start, actions, points, velocities)


def ours(folder: Path) -> None:
    from vlapack.pi0.load import build, load_weights

    weights = load_file(folder / "model.safetensors")
    model = build(CONFIGS[NAME])
    load_weights(model, weights.__getitem__, weights)
    points, velocities = [], []

    def recorded(denoise, x_t, t):  # type: ignore[no-untyped-def]
        points.append(x_t)
        velocities.append(denoise(x_t, t))
        return velocities[-1]

    start = time.process_time()
    actions = model.sample_actions(**vars(inputs()), step=recorded)
    _save(folder / "ours.safetensors", time.process_time() - start, actions, points, velocities)


def compare(folder: Path, result: Path) -> None:
    theirs, ours = load_file(folder / "theirs.safetensors"), load_file(folder / "ours.safetensors")
    difference = {key: (theirs[key] - ours[key]).abs().max().item() for key in ("actions", "x_t", "v_t")}
    document = {
        "question": "Does our network compute what openpi's class computes, at full size in fp32?",
        "config": NAME,
        "weights": f"random by name, seed {SEED}",
        "max_abs_difference": difference,
        "max_abs": {key: theirs[key].abs().max().item() for key in difference},
        "tolerance": TOLERANCE,
        "equal_within_tolerance": difference["actions"] <= TOLERANCE,
        "cpu_seconds_per_chunk": {"openpi": theirs["seconds"].item(), "vlapack": ours["seconds"].item()},
        "threads": torch.get_num_threads(),
        "note": "One thread, beside other jobs, first call, weights mapped from disk: the times are no benchmark.",
        "machine": _machine(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": _output("git", "rev-parse", "HEAD"),
    }
    result.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(document["max_abs_difference"]))


def _save(path: Path, seconds: float, actions: torch.Tensor, points: list, velocities: list) -> None:
    save_file(
        {
            "actions": actions.contiguous(),
            "x_t": torch.stack(points),
            "v_t": torch.stack(velocities),
            "seconds": torch.tensor(seconds),
        },
        path,
    )


def _machine() -> dict[str, object]:
    fields = dict(line.split(":", 1) for line in _output("lscpu").splitlines() if ":" in line)
    flags = fields["Flags"].split()
    return {
        "cpu": fields["Model name"].strip(),
        "family_model": f"{fields['CPU family'].strip()}/{fields['Model'].strip()}",
        "cores": int(fields["CPU(s)"]),
        "flags": [flag for flag in flags if flag.startswith(("avx", "fma", "amx"))],
        "system": platform.platform(),
    }


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"draw": draw, "theirs": theirs, "ours": ours, "compare": compare}[sys.argv[1]](*map(Path, sys.argv[2:]))
