"""What decides the last bits of a float result besides its inputs: written down with results, and used again.

torch splits a product or a sum among its threads, by blocks that depend on the instructions and on the CPU's caches.
Other splits add up in another order. Measured on the first tiny-libero: one thread against two changed 58 of a pack's
397 tensors, until packing ran what was found to depend on it on a given number (`methods.threads`); and it changes the
number of steps that an episode takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vlapack.console import say
from vlapack.fingerprint import THREADS
from vlapack.machine.cpu import describe_machine
from vlapack.machine.gpu import CPU
from vlapack.methods.threads import threads
from vlapack.ops.engine import described

VARIABLES = (
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
)
"""With these, torch's libraries compute otherwise on the same CPU. Those of torch and vlapack themselves are seen in
`instructions` and `engine`."""


def arithmetic(device: torch.device = CPU) -> dict[str, Any]:
    """Return what computes in this process, one JSON key for each thing that may differ between two of them.

    Args:
        device: where the policy is.
    """
    machine = describe_machine()
    return {
        THREADS: torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu": f"{machine['cpu']} ({machine['family']})",
        "instructions": " ".join((torch.backends.cpu.get_cpu_capability(), *machine["isa"])),
        "engine": described(device),
        "variables": {name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
    }


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Compute with this many threads in the block, as the work that goes on there was begun; None: as it is."""
    here = torch.get_num_threads()
    if count not in (None, here):
        say(f"this run began with {count} threads and continues with {count}, so that nothing changes; here are {here}")
    with threads(here if count is None else count):
        yield
