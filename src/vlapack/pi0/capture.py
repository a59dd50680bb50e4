"""Keeping a run on a device to repeat it: CUDA graphs, behind an interface that works without a GPU, too.

A captured run reads and writes the memory that it did when it was captured, whatever Python would do the second time.
So it must be given its inputs in buffers that stay, read no value on the host, and copy nothing from there.
`capturable` finds what breaks this without a GPU, and `recorder.Recorder` runs what a graph would.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import torch

WARM_UP = 3
"""Runs before the one that is captured: kernels are chosen and compiled in them, and workspaces allocated."""

Outputs = TypeVar("Outputs")


class Captured(Protocol):
    """A run that can be repeated.

    Attributes:
        outputs: What the run returned; `replay` writes the same tensors again.
    """

    outputs: Any

    def replay(self) -> None:
        """Run again, on the same memory."""


Capture = Callable[[Callable[[], Any]], Captured]
"""Runs a function without arguments and keeps the run."""


class CudaCapture:
    """Captures CUDA graphs that share one pool of memory: those of a chunk, and of one chunk at a time.

    It has two streams of its own. torch's common one for captures belongs to the card that was captured on first, and
    a graph that goes takes the workspaces of its stream along. What warms up runs on the other stream: workspaces made
    there do not lie in the pool.
    """

    def __init__(self, device: torch.device) -> None:
        """Ask nothing of the card before something is captured."""
        self._device = device
        self._pool: Any = None

    def __call__(self, run: Callable[[], Outputs]) -> CudaGraph[Outputs]:
        """Warm up and capture.

        Raises:
            RuntimeError: the run does what cannot be captured, or memory is short.
        """
        with torch.cuda.device(self._device), warnings.catch_warnings():
            # A graph without a kernel would give the result of its capture for ever.
            warnings.filterwarnings("error", message=".*graph is empty", category=UserWarning)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
                self._warming, self._capturing = torch.cuda.Stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._warming.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._warming):
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(self._warming)
            graph = torch.cuda.CUDAGraph()
            # A server prepares the next observation in another thread meanwhile.
            options: dict[str, Any] = {"stream": self._capturing, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(graph, pool=self._pool, **options):
                outputs = run()
        return CudaGraph(graph, outputs)


class CudaGraph(Generic[Outputs]):
    """A captured CUDA graph and its outputs."""

    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: Outputs) -> None:
        """Keep both: the outputs' memory is the graph's."""
        self._graph = graph
        self.outputs = outputs

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()
