"""Whether the network can be captured as CUDA graphs, found without a GPU: on `meta`, where no tensor has values.

The runs are those that `graphs.Runner` captures. Watched are the operators, and the calls of torch that make tensors of
Python's numbers, whose copy to the device no operator shows.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlapack.linear import PackedLinear
from vlapack.pi0.buffers import Buffers, Shape
from vlapack.pi0.flow import Pi0

META = torch.device("meta")
COPIES = ("_to_copy", "copy_")
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor)
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)
TORCH, HERE = str(Path(torch.__file__).parent), __file__

Kind = Literal["reads a value", "crosses devices", "has a shape that depends on values", "differs from run to run"]


@dataclass(frozen=True)
class Violation:
    """What a captured run must not do.

    Attributes:
        kind: What it is.
        what: The operator, or the call.
        place: The line that does it, `file:line`.
    """

    kind: Kind
    what: str
    place: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.place}: {self.what} {self.kind}"


class CannotGoOn(Exception):  # noqa: N818 - it ends a run whose violation is noted
    """A run needs a value, and none will do."""


def capturable(
    model: Pi0,
    *,
    batch: int = 1,
    cameras: int | None = None,
    prompt: int | None = None,
    pixels: torch.dtype = torch.float32,
) -> list[Violation]:
    """Run what `graphs.Runner` captures, and return what stands in the way.

    Args:
        model: Float or packed, fused or not, on any device; it is not changed, and no weight is read. Not under
            `torch.compile`.
        batch: Observations.
        cameras: That they have; None: all of the network's.
        prompt: Slots; None: the most.
        pixels: dtype of the pictures.

    Returns:
        Every violation once, in the order of the network; none after one that no value could stand in for.
    """
    twin = on_meta(model)
    config = model.config
    if twin.time_table is None:
        twin.tabulate()
    cameras, prompt = cameras or config.num_cameras, prompt or config.max_token_len
    with torch.no_grad():
        buffers = Buffers(twin, Shape(batch, cameras, prompt, pixels))
        found, prefix = watch(buffers.encode)
        if prefix is not None:
            buffers.prefix = prefix
            by_action = (buffers.step_by_action,) if config.max_delay else ()
            for run in (buffers.follow, buffers.step, *by_action):
                found += watch(run)[0]
    return list(dict.fromkeys(found))


def watch(run: Callable[[], Any]) -> tuple[list[Violation], Any]:
    """Run something on `meta` twice; return its violations, each once, and its result (None if it came to none)."""
    seen: list[list[tuple[str, str]]] = []
    found: dict[Violation, None] = {}
    result = None
    for _ in range(2):
        operators = _Operators(found)
        try:
            with _Calls(found), operators:
                result = run()
        except CannotGoOn:
            return list(found), None
        seen.append(operators.lines)
    for first, second in zip(*seen, strict=False):
        if first != second:
            found[Violation("differs from run to run", second[0], second[1])] = None
            break
    return list(found), result


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operators that read values, join devices or make shapes of values, and stands in for their results."""

    def __init__(self, found: dict[Violation, None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found
        self.lines: list[tuple[str, str]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(tensor.is_meta for tensor in tensors)
        if on_device and torch.Tag.data_dependent_output in function.tags:
            self._note("reads a value", name)
            if name != "_local_scalar_dense":
                raise CannotGoOn
            return torch.ones((), dtype=tensors[0].dtype).item()
        if on_device and torch.Tag.dynamic_output_shape in function.tags and _by_value(name, tensors):
            self._note("has a shape that depends on values", name)
            raise CannotGoOn
        devices = {tensor.device for tensor in tensors if tensor.dim() or name in COPIES}
        target = kwargs.get("device") if name == "_to_copy" else None
        if len(devices | ({target} if target is not None else set())) > 1:
            self._note("crosses devices", name)
            if target is not None:
                return torch.zeros_like(args[0], device=target, dtype=kwargs.get("dtype"))
            if name == "copy_":
                return args[0]
            raise CannotGoOn
        result = function(*args, **kwargs)
        shapes = [list(leaf.shape) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.lines.append((f"{name} {shapes}", _place() if not self.lines else ""))
        return result

    def _note(self, kind: Kind, what: str) -> None:
        self._found[Violation(kind, what, _place())] = None


class _Calls(TorchFunctionMode):
    """Notes calls that make tensors of numbers, or numbers of tensors, without an operator that shows it."""

    def __init__(self, found: dict[Violation, None]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.numpy and args[0].is_meta:
            self._found[Violation("reads a value", "numpy", _place())] = None
            raise CannotGoOn
        listed = function in INDEXING and args[0].is_meta and any(isinstance(leaf, list) for leaf in _indices(args[1]))
        result = function(*args, **kwargs)
        if listed or (function in FROM_NUMBERS and result.is_meta and not isinstance(args[0], Tensor)):
            what = "an index of numbers" if listed else function.__name__
            self._found[Violation("crosses devices", what, _place())] = None
        return result


def _indices(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _by_value(name: str, tensors: list[Tensor]) -> bool:
    """Whether an operator that may have such a shape does: indexing has it by booleans only."""
    return name != "index" or any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:])


def _place() -> str:
    """The innermost line that is neither torch's nor this module's."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name != HERE and not name.startswith((TORCH, "<")):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def on_meta(model: Pi0, *, fused: bool | None = None) -> Pi0:
    """Return a network of the same modules whose tensors are on `meta`; those of `model` are not touched.

    Args:
        model: Float or packed.
        fused: Whether it has the fused form; None: if `model` has.
    """
    twins: dict[int, nn.Module] = {}

    def twin(module: nn.Module) -> nn.Module:
        if id(module) not in twins:  # layers may share one
            copy = object.__new__(type(module))
            twins[id(module)] = copy
            for name, value in vars(module).items():
                copy.__dict__[name] = value.to(META) if isinstance(value, Tensor) else value
            copy.__dict__["_parameters"] = {
                name: None if value is None else nn.Parameter(value.detach().to(META), requires_grad=False)
                for name, value in module._parameters.items()
            }
            copy.__dict__["_buffers"] = (
                module.on_meta()
                if isinstance(module, PackedLinear)
                else {name: None if value is None else value.to(META) for name, value in module._buffers.items()}
            )
            copy.__dict__["_modules"] = {
                name: None if child is None else twin(child) for name, child in module._modules.items()
            }
        return twins[id(module)]

    made: Pi0 = twin(model)  # type: ignore[assignment]
    if model.is_fused if fused is None else fused:
        made.fuse()
    else:
        made.unfuse()
    return made
