"""Whatever a network launches is found in archives that were made of the same network's launches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cubins.networks import Work
from cubins.recording import Board, Recorder
from fake_cuda import FakeCuda, fake_cubin
from small import SMALL

from vlapack.ops.cubin.archive import Archive, Code, cubin_name, kernels_hash, read, write
from vlapack.ops.cubin.driver import Driver
from vlapack.ops.cubin.language import Kernel, import_kernels
from vlapack.ops.cubin.launch import Launcher
from vlapack.ops.cubin.variant import Variant
from vlapack.pi0.buffers import Shape
from vlapack.recipe.presets import PRESETS

pytestmark = pytest.mark.usefixtures("forget_kernels")
WORK = Work("small", SMALL, PRESETS["full"], (Shape(1, 2, 7, torch.uint8), Shape(1, 3, 32, torch.uint8)))
OTHER_SHAPES = (Shape(1, 1, 9, torch.uint8), Shape(1, 3, 31, torch.uint8))
"""Tokens as many as take the same tiles."""


class Both(Recorder):
    """Writes launches down, and hands them on to a launcher when there is one."""

    launcher: Launcher | None = None
    launches = 0

    def __call__(self, kernel: Kernel, grid: tuple[int, ...], values: list[Any], options: dict[str, Any]) -> None:
        super().__call__(kernel, grid, values, options)
        if self.launcher is not None:
            self.launcher(kernel, grid, values, options)
            self.launches += 1


def archive_of(variants: set[Variant]) -> Archive:
    codes, cubins = {}, {}
    for variant in variants:
        passed = [word for word in variant.arguments if "=" not in word]
        sizes = [8 if word.startswith("*") else 4 for word in passed] + [8, 8]
        symbol = variant.kernel.rpartition(".")[2]
        cubin = fake_cubin(symbol, sizes)
        codes[variant] = Code(symbol, cubin_name(cubin), 128, 0)
        cubins[cubin_name(cubin)] = cubin
    return Archive("sm_87", "", kernels_hash(), codes, cubins)


def test_every_launch_of_a_network_finds_its_code(cuda: FakeCuda, tmp_path) -> None:
    recorder = Both([Board("sm_87", 8)])
    import_kernels(recorder)
    recorder.record(WORK)
    write(archive_of(recorder.found["sm_87"]), tmp_path)
    recorder.launcher = Launcher(Driver(cuda))
    recorder.launcher.add(1, (read("sm_87", tmp_path),))
    recorder.record(WORK)
    assert recorder.launches > 50
    assert len(cuda.launched) == recorder.launches
    # Prompts and cameras that nobody ran.
    recorder.record(WORK._replace(shapes=OTHER_SHAPES))
    assert len(cuda.launched) == recorder.launches
