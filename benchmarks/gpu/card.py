"""The card that is measured: its clock, its events, its memory, its graphs. The only part that `dry` replaces."""

from __future__ import annotations

import csv
import ctypes
import subprocess
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from vlapack.machine import gpu
from vlapack.ops import engine
from vlapack.pi0.capture import Capture, CudaCapture

UNKNOWN = "unknown"
ASKED = {
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "power_limit_w": "power.limit",
    "power_w": "power.draw",
    "celsius": "temperature.gpu",
}
"""What results say of a card's state, and what `nvidia-smi` calls it."""


class Card(Protocol):
    """What measuring needs of a card.

    Attributes:
        device: where tensors are.
        dry: whether the clock is none, so that no figure means anything.
    """

    device: torch.device
    dry: bool

    def describe(self) -> dict[str, Any]:
        """Name, architecture, driver, engine, bytes of memory and of the last cache."""
        ...

    def now(self) -> float:
        """Seconds."""
        ...

    def mark(self) -> Any:
        """Mark this point of the card's work."""
        ...

    def elapsed(self, first: Any, last: Any) -> float:
        """Milliseconds of the card between two marks that it has passed."""
        ...

    def synchronize(self) -> None:
        """Wait for the card."""
        ...

    def capturing(self) -> Capture:
        """Return what captures runs into a pool of memory of their own."""
        ...

    def nodes(self, run: Callable[[], Any]) -> int | None:
        """Count the nodes of a run's graph; None where the system does not tell."""
        ...

    def forget_peak(self) -> None:
        """Count the peak of memory from here on."""
        ...

    def memory(self) -> dict[str, int]:
        """Bytes of torch's allocator, now and at the peak, and `context`: what else is taken on the card."""
        ...

    def free(self) -> int:
        """Bytes that can be taken now."""
        ...

    def state(self) -> dict[str, float | str]:
        """Clocks, power and temperature now; `unknown` where nobody tells."""
        ...


class CudaCard:
    """A card that torch computes on."""

    dry = False

    def __init__(self, device: torch.device) -> None:
        """Take a card that is there and has an engine, by its number."""
        self.device = device
        torch.cuda.set_device(device)

    def describe(self) -> dict[str, Any]:
        found, properties = gpu.card(self.device), torch.cuda.get_device_properties(self.device)
        return {
            "name": found.name,
            "architecture": found.architecture,
            "driver": found.driver or UNKNOWN,
            "engine": engine.active(self.device),
            "memory_bytes": properties.total_memory,
            "processors": properties.multi_processor_count,
            "cache_bytes": properties.L2_cache_size,
        }

    def now(self) -> float:
        return time.perf_counter()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed(self, first: torch.cuda.Event, last: torch.cuda.Event) -> float:
        return float(first.elapsed_time(last))

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def capturing(self) -> Capture:
        return CudaCapture()

    def nodes(self, run: Callable[[], Any]) -> int | None:
        # Whatever is missing (an older torch, another maker's driver), the count on paper remains.
        try:
            graph = torch.cuda.CUDAGraph(keep_graph=True)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                run()
            count = ctypes.c_size_t()
            driver = ctypes.CDLL("libcuda.so.1")
            failed = driver.cuGraphGetNodes(ctypes.c_void_p(graph.raw_cuda_graph()), None, ctypes.byref(count))
        except (AttributeError, OSError, RuntimeError, TypeError):
            return None
        return None if failed else count.value

    def forget_peak(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def memory(self) -> dict[str, int]:
        free, total = torch.cuda.mem_get_info(self.device)
        return {
            "allocated": torch.cuda.memory_allocated(self.device),
            "peak": torch.cuda.max_memory_allocated(self.device),
            "context": total - free - torch.cuda.memory_reserved(self.device),
        }

    def free(self) -> int:
        return gpu.free_bytes(self.device)

    def state(self) -> dict[str, float | str]:
        unknown: dict[str, float | str] = dict.fromkeys(ASKED, UNKNOWN)
        identity = getattr(torch.cuda.get_device_properties(self.device), "uuid", None)
        if identity is None:
            return unknown
        command = ["nvidia-smi", f"--id=GPU-{identity}", f"--query-gpu={','.join(ASKED.values())}"]
        try:
            told = subprocess.run(
                [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return unknown
        return parsed_state(told.stdout)


def parsed_state(text: str) -> dict[str, float | str]:
    """Read a line of `nvidia-smi`'s CSV; what a card does not tell (`[N/A]`) is unknown."""
    values = next(csv.reader([text.strip()]), [])
    return {name: _number(value.strip()) for name, value in zip(ASKED, [*values, *[""] * len(ASKED)], strict=False)}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return UNKNOWN
