"""Launches shipped kernels: finds the code for a launch, loads it once for each card, and packs its arguments."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vlapack.errors import InputError, WorkError
from vlapack.machine import gpu
from vlapack.ops.cubin import archive
from vlapack.ops.cubin.archive import Archive
from vlapack.ops.cubin.choice import KERNELS_VARIABLE, Shipped
from vlapack.ops.cubin.driver import Driver
from vlapack.ops.cubin.language import Kernel, import_kernels
from vlapack.ops.cubin.variant import Variant

SCRATCH = 2
"""Pointers that Triton's kernels take last: global and profiling scratch memory. Ours use neither: they are null."""


@dataclass(frozen=True)
class Loaded:
    """A kernel on a card.

    Attributes:
        function: libcuda's handle.
        threads: of one program.
        shared: bytes of dynamic shared memory.
        passed: positions of the arguments that are passed.
        layout: of all of them in memory, and of the null pointers behind.
    """

    function: int
    threads: int
    shared: int
    passed: tuple[int, ...]
    layout: struct.Struct

    def slots(self, values: Sequence[Any]) -> bytes:
        """Pack a launch's arguments; `values` has one for each of the kernel's parameters."""
        passed = (values[position] for position in self.passed)
        numbers = (value.data_ptr() if isinstance(value, Tensor) else value for value in passed)
        return self.layout.pack(*numbers, *(0,) * SCRATCH)


class Launcher:
    """Launches kernels from archives, on torch's current card and stream."""

    def __init__(self, driver: Driver) -> None:
        """Begin without a card."""
        self._driver = driver
        self._archives: dict[int, tuple[Archive, ...]] = {}
        self._loaded: dict[tuple[int, Variant], Loaded] = {}
        self._modules: dict[tuple[int, str], int] = {}

    def add(self, index: int, archives: tuple[Archive, ...]) -> None:
        """Name the archives of a card, by its number; the first one that has code for a launch is taken."""
        self._archives[index] = archives

    def __call__(self, kernel: Kernel, grid: tuple[int, ...], values: list[Any], options: dict[str, Any]) -> None:
        """Launch a kernel; a grid without programs launches nothing.

        Raises:
            InputError: no code for this launch was shipped.
            WorkError: the driver refuses, or code would have to be loaded while a graph is captured.
        """
        if not all(grid):
            return
        index = torch.cuda.current_device()
        launch = Variant.of_launch(kernel, values, options)
        self._driver.enter(index)
        loaded = self._loaded.get((index, launch))
        if loaded is None:
            loaded = self._loaded[index, launch] = self._load(index, launch)
        x, y, z = (*grid, 1, 1)[:3]
        stream = torch.cuda.current_stream().cuda_stream
        how = {"threads": loaded.threads, "shared": loaded.shared, "stream": stream}
        self._driver.launch(loaded.function, (x, y, z), loaded.slots(values), **how)

    def _load(self, index: int, launch: Variant) -> Loaded:
        archives = self._archives[index]
        for shipped in archives:
            if (found := shipped.find(launch)) is not None:
                break
        else:
            raise InputError(
                f"{archives[-1].target}: no shipped kernel for {launch}; unset {KERNELS_VARIABLE} where Triton is "
                "installed, or set VLAPACK_ENGINE=reference, which is slow"
            )
        if torch.cuda.is_current_stream_capturing():
            # A load waits for the card and takes memory, which breaks the capture; runs before it load what they use.
            raise WorkError(f"{launch.kernel} is not loaded yet and a graph is being captured: run it once first")
        variant, code = found
        key = index, code.cubin
        if key not in self._modules:
            self._modules[key] = self._driver.load(shipped.cubins[code.cubin])
        function = self._driver.function(self._modules[key], code.symbol, code.shared)
        layout = struct.Struct("<" + "".join(variant.slots) + "Q" * SCRATCH)
        return Loaded(function, code.threads, code.shared, variant.passed, layout)


@cache
def _launcher() -> Launcher:
    """The process's launcher; the kernels' modules are imported for it."""
    launcher = Launcher(Driver())
    import_kernels(launcher)
    return launcher


def start(choice: Shipped, device: torch.device) -> None:
    """Make the shipped kernels ready for a card with a number.

    Raises:
        InputError: none were shipped for it, they are damaged or of another version, libcuda is missing, or the modules
            of `ops/triton` were imported with Triton.
    """
    targets = choice.archives(gpu.card(device).architecture)
    try:
        archives = tuple(archive.read(target, archive.FOLDER) for target in targets)
    except InputError as error:
        raise InputError(f"{KERNELS_VARIABLE}={choice}: {error}") from error
    assert device.index is not None
    _launcher().add(device.index, archives)
