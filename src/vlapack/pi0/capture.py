"""Keeping a run on a device to repeat it: CUDA graphs, behind an interface that works without a GPU, too.

A captured run reads and writes the memory that it did when it was captured, whatever Python would do the second time.
So it must be given its inputs in buffers that stay, read no value on the host, and copy nothing from there.
`capturable` finds what breaks this without a GPU, and `recorder.Recorder` runs what a graph would.
"""

from __future__ import annotations

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
    """Captures CUDA graphs that share one pool of memory: those of a chunk, and of one chunk at a time."""

    def __init__(self) -> None:
        """Ask nothing of the card before something is captured."""
        self._pool: Any = None

    def __call__(self, run: Callable[[], Outputs]) -> CudaGraph[Outputs]:
        """Warm up and capture.

        Raises:
            RuntimeError: the run does what cannot be captured, or memory is short.
        """
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # A server prepares the next observation in another thread meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
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
