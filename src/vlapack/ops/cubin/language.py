"""Stands in for Triton while the modules of `ops/triton` are imported, so that they run where Triton is not installed.

Those modules use little of Triton outside kernels: `jit`, two functions, names of types. Kernels are never run as
Python. `stand_in` puts two modules in Triton's place for the time of an import and then takes them away: torch, too,
looks for Triton, and must not take these for it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias

from vlapack.errors import InputError
from vlapack.ops.cubin.choice import KERNELS_VARIABLE

KERNELS = "vlapack.ops.triton"
TRITON = ("triton", "triton.language")
TYPES = (
    "int1", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "bfloat16", "float32", "float64",
)  # fmt: skip
MARK = "__stands_in__"
_lock = threading.Lock()


@dataclass(frozen=True)
class Type:
    """A type of Triton's language, by its name there."""

    name: str


class constexpr:  # noqa: N801 - Triton's
    """A constant of Triton's language: an annotation, or a value."""

    def __init__(self, value: Any) -> None:
        """Hold the value."""
        self.value = value


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel.

    Attributes:
        name: its name.
        constant: whether its value is compiled in.
        specialized: whether the code may rely on properties of an integer: that it is 1, or that 16 divides it.
    """

    name: str
    constant: bool
    specialized: bool


class Kernel:
    """A function under `@triton.jit`: `kernel[grid](*arguments, **constants_and_options)` launches it.

    Attributes:
        name: module below `ops/triton` and function, `rows.rows_kernel`.
        parameters: in order.
    """

    def __init__(self, function: Callable[..., Any], unspecialized: Sequence[str], launch: Launch) -> None:
        """Read the signature."""
        self.name = f"{function.__module__.removeprefix(KERNELS + '.')}.{function.__name__}"
        self.parameters = tuple(
            Parameter(name, _is_constant(parameter.annotation), name not in unspecialized)
            for name, parameter in inspect.signature(function).parameters.items()
        )
        self._launch = launch

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """Return what launches the kernel with so many programs."""

        def launch(*arguments: Any, **named: Any) -> None:
            values, options = self.bound(arguments, named)
            self._launch(self, grid, values, options)

        return launch

    def bound(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return every parameter's value in order, and the options: what is named and is no parameter.

        Raises:
            TypeError: a parameter has no value.
        """
        options = dict(named)
        values = list(arguments)
        for parameter in self.parameters[len(values) :]:
            if parameter.name not in options:
                raise TypeError(f"{self.name}: the argument {parameter.name} is missing")
            values.append(options.pop(parameter.name))
        return values, options


Launch: TypeAlias = Callable[[Kernel, tuple[int, ...], list[Any], dict[str, Any]], None]
"""What runs a kernel: (kernel, grid, value of every parameter, options)."""


def import_kernels(launch: Launch) -> None:
    """Import every module of `ops/triton` with the stand-in; launches then call `launch`.

    All at once, since later imports would look for Triton itself. Modules that do not use Triton may be there already.

    Raises:
        InputError: modules that do were imported with Triton.
    """
    package = importlib.import_module(KERNELS)
    names = [f"{KERNELS}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    with stand_in(launch):
        for name in names:
            module = importlib.import_module(name)
            if any(hasattr(module, alias) and not hasattr(getattr(module, alias), MARK) for alias in ("triton", "tl")):
                raise InputError(f"{KERNELS_VARIABLE} was set after {name} had been imported with Triton: set it first")


@contextmanager
def stand_in(launch: Launch) -> Iterator[None]:
    """Let `import triton` find the stand-in, whatever is installed; afterwards all is as before."""
    with _lock:
        hidden = {name: sys.modules[name] for name in TRITON if name in sys.modules}
        sys.modules.update(_modules(launch))
        try:
            yield
        finally:
            for name in TRITON:
                del sys.modules[name]
            sys.modules.update(hidden)


def _modules(launch: Launch) -> dict[str, ModuleType]:
    """Return what stands in for Triton, by name: all that `ops/triton` uses of it outside kernels."""

    def jit(function: Any = None, *, do_not_specialize: Sequence[str] = ()) -> Any:
        def decorate(function: Callable[..., Any]) -> Kernel:
            return Kernel(function, do_not_specialize, launch)

        return decorate if function is None else decorate(function)

    triton, language = (ModuleType(name) for name in TRITON)
    vars(language).update({MARK: True, "constexpr": constexpr, **{name: Type(name) for name in TYPES}})
    knobs = SimpleNamespace(runtime=SimpleNamespace(interpret=False))
    vars(triton).update({MARK: True, "language": language, "jit": jit, "knobs": knobs})
    vars(triton).update({"cdiv": _cdiv, "next_power_of_2": _next_power_of_2})
    return {triton.__name__: triton, language.__name__: language}


def _is_constant(annotation: Any) -> bool:
    return annotation is constexpr or (isinstance(annotation, str) and "constexpr" in annotation)


def _cdiv(x: int, y: int) -> int:
    return -(-x // y)


def _next_power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length() if n > 0 else 0
