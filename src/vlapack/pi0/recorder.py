"""A capture without a GPU: runs the function again, and holds it to what a CUDA graph would have kept.

A graph repeats the operators that it recorded, on the addresses, shapes and numbers that it recorded. A run that would
do something else the second time gives a right result in Python and a wrong one from a graph; here it is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LITERAL = torch.ops.aten.lift_fresh.default
"""Hands on a tensor that torch has just made of Python's numbers."""
Line: TypeAlias = tuple[Any, ...]
"""An operator, its tensors (dtype, shape, strides, address), its numbers, and its results (dtype, shape, strides)."""


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what a run does.

    Attributes:
        lines: One per operator. A tensor that the run made itself has no address.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[Line] = []
        self._made: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator and write its line."""
        kwargs = kwargs or {}
        given = tree_leaves((args, kwargs))
        result = function(*args, **kwargs)
        if function is LITERAL:
            self._made.add(_memory(args[0]))
            given.append(args[0].tolist())
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        # What is a view of something given is not the run's own, unless that is.
        known = {_memory(leaf) for leaf in given if isinstance(leaf, Tensor)}
        self._made |= {_memory(tensor) for tensor in made} - known
        inputs = tuple(self._described(leaf) if isinstance(leaf, Tensor) else leaf for leaf in given)
        self.lines.append((function, inputs, *map(_form, made)))
        return result

    def _described(self, tensor: Tensor) -> Line:
        return (*_form(tensor), None if _memory(tensor) in self._made else hex(tensor.data_ptr()))


class Recorder:
    """A `Capture`d run on the CPU, or any device.

    Attributes:
        outputs: What the first run returned; every replay writes there.
        replays: How often it was replayed.
        operators: How many operators one run takes.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        """Run once and keep what it did."""
        self._run = run
        self.outputs, self._lines = self._traced()
        self._tensors = _tensors(self.outputs)
        self.replays = 0

    @property
    def operators(self) -> int:
        """How many operators a run takes: about as many kernels as a GPU launches."""
        return len(self._lines)

    def replay(self) -> None:
        """Run again.

        Raises:
            AssertionError: the run did something else than the first; the message has the first difference.
        """
        outputs, lines = self._traced()
        for number, (before, now) in enumerate(zip(self._lines, lines, strict=False)):
            assert before == now, f"operator {number} was {before}\nand is {now}"
        assert len(self._lines) == len(lines), f"{len(self._lines)} operators became {len(lines)}"
        for kept, fresh in zip(self._tensors, _tensors(outputs), strict=True):
            if kept.data_ptr() != fresh.data_ptr():
                kept.copy_(fresh)
        self.replays += 1

    def _traced(self) -> tuple[Any, list[Line]]:
        with Trace() as trace:
            outputs = self._run()
        return outputs, trace.lines


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _form(tensor: Tensor) -> Line:
    return tensor.dtype, tuple(tensor.shape), tensor.stride()


def _tensors(outputs: Any) -> list[Tensor]:
    """All tensors of a result, those in dataclasses among them, in their order."""
    if dataclasses.is_dataclass(outputs):
        return [tensor for field in dataclasses.fields(outputs) for tensor in _tensors(getattr(outputs, field.name))]
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
