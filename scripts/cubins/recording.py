"""Which kernels networks launch, found without a GPU: they run on `meta`, and launches are written down.

Triton need not be installed for this. `meta` is made out to be a board: what decides about launches (tiles, splits,
inline assembly) asks for the card, and gets a board's answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cubins.networks import Work, act, differentiate, packed_on_meta
from vlapack.machine import gpu
from vlapack.ops import engine
from vlapack.ops.cubin.language import Kernel, import_kernels
from vlapack.ops.cubin.variant import Variant
from vlapack.recipe.recipe import Recipe


class Board(NamedTuple):
    """What a choice of tiles depends on."""

    architecture: str
    processors: int


BOARDS = (*(Board("sm_87", count) for count in range(2, 17, 2)), *(Board("sm_110", count) for count in range(2, 21, 2)))
"""Multiprocessors come in twos: Orin Nano has 8, AGX Orin 16, Thor 20, and power modes turn some off. Into how many
parts a product is split depends on them."""


class Recorder:
    """What `import_kernels` is given: writes launches down and runs nothing.

    Attributes:
        board: that launches are for.
        found: by architecture.
    """

    def __init__(self, boards: Iterable[Board] = BOARDS) -> None:
        """Begin with nothing."""
        self.boards = tuple(boards)
        self.board = self.boards[0]
        self.found: dict[str, set[Variant]] = {board.architecture: set() for board in self.boards}

    def __call__(self, kernel: Kernel, grid: tuple[int, ...], values: list[Any], options: dict[str, Any]) -> None:
        """Note a launch."""
        assert all(grid), f"{kernel.name} is launched with no program"
        self.found[self.board.architecture].add(Variant.of_launch(kernel, values, options))

    def record(self, work: Work) -> None:
        """Run a network's work; the kernels must have been imported for this recorder."""
        with self.instead_of_meta(work.recipe), _OnBoards(self):
            model = packed_on_meta(work.architecture, work.recipe)
            for shape in work.shapes:
                buffers = act(model, shape)
            differentiate(buffers)

    @contextmanager
    def instead_of_meta(self, recipe: Recipe) -> Iterator[None]:
        """Let `meta` be the card `board`, and let it be known what a recipe's rotations are."""
        from vlapack.ops.triton import known, tiles

        def is_hadamard(blocks: Tensor) -> bool:
            count, size, _ = blocks.shape
            return recipe.rotation == "hadamard" and count == 1 and size & (size - 1) == 0

        patches = (
            (engine, "active", lambda device=gpu.CPU: "triton"),
            (gpu, "card", lambda device: gpu.Card("a board", self.board.architecture, None)),
            (tiles, "processors", lambda device: self.board.processors),
            (tiles, "has_assembly", lambda device: True),
            (known.is_hadamard, "_find", is_hadamard),
            (known.check_permutation, "_find", lambda permutation: True),
        )
        with ExitStack() as stack:
            for owner, name, stands_in in patches:
                stack.enter_context(mock.patch.object(owner, name, stands_in))
            yield


class _OnBoards(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs vlapack's ops on `meta` as they run on GPUs instead of by their fakes, once for each board."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function.namespace != "vlapack":
            return function(*args, **kwargs)
        for board in self._recorder.boards:
            self._recorder.board = board
            result = function._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)
        return result


def recorded(works: Iterable[Work]) -> dict[str, list[Variant]]:
    """Return by architecture what works launch, in a fixed order; in a process that has no kernels imported yet."""
    recorder = Recorder()
    import_kernels(recorder)
    for work in works:
        recorder.record(work)
    return {architecture: sorted(found, key=str) for architecture, found in recorder.found.items()}
