"""openpi's own class as a contender of benchmarks/chunk.py: the protocol of `vlapack.bench.worker`, in its environment.

    PYTHONPATH=src:scripts openpi-env/bin/python benchmarks/openpi_worker.py ARCHITECTURE WEIGHTS INPUTS DTYPE THREADS

The environment is that of scripts/openpi_reference.py; ARCHITECTURE is `Pi0Config.to_dict` as JSON. DTYPE bfloat16 is
openpi's mixed precision, that of its file; float32 widens all of it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import openpi_reference as reference
import torch
from make_golden_pi0 import to_bf16
from safetensors.torch import load_file
from seeded import Inputs

from vlapack.pi0.config import Pi0Config


def memory() -> dict[str, int]:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rss_bytes": int(fields["VmRSS"].split()[0]) * 1024, "peak_rss_bytes": peak}


def main(architecture: str, weights: Path, inputs: Path, dtype: str, threads: int) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    start = time.perf_counter()
    model = reference.mapped_model(Pi0Config.from_dict(json.loads(architecture)), weights)
    if dtype == "bfloat16":
        to_bf16(model)
    # Into memory, as openpi has it; what is tied stays one tensor.
    copies: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        place = parameter.data_ptr()
        if place not in copies:
            copies[place] = parameter.data.to(torch.float32 if dtype == "float32" else parameter.dtype, copy=True)
        parameter.data = copies[place]
    shown = Inputs(**load_file(inputs))
    held = sum(tensor.nbytes for tensor in copies.values())
    loaded = {"load_seconds": time.perf_counter() - start, "weight_bytes": held}
    answers.write(json.dumps(loaded) + "\n")
    for _ in sys.stdin:
        start = time.perf_counter()
        with torch.no_grad():
            # Through the class: the instance's own method is wrapped by torch.compile.
            type(model).sample_actions(model, shown.state.device, reference.observation(shown), noise=shown.noise)
        milliseconds = (time.perf_counter() - start) * 1e3
        answers.write(json.dumps({"ms": milliseconds, "parts": {}, **memory()}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
