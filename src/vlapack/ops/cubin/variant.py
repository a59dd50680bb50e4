"""What a kernel is compiled for: its constants, the types of its arguments, and what the code may rely on.

As in Triton, code may rely on three properties of arguments. A tensor's address or an integer that 16 divides lets it
load and store wider; an integer that is 1 is compiled in. Code compiled without such a hint is right, too, and slower.

An argument is written as one word:

- `=128`, `="plain"`, `=null`, `=bfloat16`: a constant, or an argument that is None; compiled in
- `*bf16`, `*bf16:16`: a tensor, and one whose address 16 divides
- `i32`, `i32:16`, `i32=1`: an integer, one that 16 divides, and 1, which is compiled in
- `fp32`: a float
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlapack.ops.cubin.language import Kernel, Parameter, Type, constexpr

ALIGNMENT = 16
POINTERS = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
    torch.uint16: "u16",
}
"""Triton's names of what tensors hold. It has bool as `i1`; vlapack's kernels take masks as bytes."""
SLOTS = {"i32": "i4x", "i64": "q", "fp32": "f4x"}
"""How `struct` packs a number, each into 8 bytes; a tensor is its address, `Q`."""
_HINT = re.compile("[:=]")


@dataclass(frozen=True)
class Variant:
    """One kernel compiled in one way.

    Attributes:
        kernel: `Kernel.name`.
        arguments: a word per parameter.
        options: Triton's, as the launch names them, sorted: `num_warps`, `num_stages`, `enable_fp_fusion`.
    """

    kernel: str
    arguments: tuple[str, ...]
    options: tuple[tuple[str, int | bool], ...]

    @classmethod
    def of_launch(cls, kernel: Kernel, values: Sequence[Any], options: Mapping[str, Any]) -> Variant:
        """Return the variant with every hint that these values allow; it is what Triton would compile for them."""
        words = (word(value, parameter) for value, parameter in zip(values, kernel.parameters, strict=True))
        return cls(kernel.name, tuple(words), tuple(sorted(options.items())))

    @property
    def unhinted(self) -> Variant:
        """The same without any hint."""
        return Variant(self.kernel, tuple(map(_base, self.arguments)), self.options)

    @property
    def hints(self) -> int:
        """How many properties of arguments the code relies on."""
        return sum(word != _base(word) for word in self.arguments)

    @property
    def passed(self) -> tuple[int, ...]:
        """Which arguments a launch passes, by position: those that are not compiled in."""
        return tuple(position for position, word in enumerate(self.arguments) if "=" not in word)

    @property
    def slots(self) -> tuple[str, ...]:
        """The format for `struct` of each argument that is passed."""
        bases = (_base(self.arguments[position]) for position in self.passed)
        return tuple("Q" if base.startswith("*") else SLOTS[base] for base in bases)

    def takes(self, launch: Variant) -> bool:
        """Whether the code is right for a launch, described as `of_launch` does it."""
        return (
            self.kernel == launch.kernel
            and self.options == launch.options
            and len(self.arguments) == len(launch.arguments)
            and all(
                assumed in (actual, _base(actual))
                for assumed, actual in zip(self.arguments, launch.arguments, strict=True)
            )
        )

    def __str__(self) -> str:
        options = (f"{name}={value}" for name, value in self.options)
        return f"{self.kernel}({', '.join((*self.arguments, *options))})"


def word(value: Any, parameter: Parameter) -> str:
    """Describe an argument with every hint that it allows.

    Raises:
        TypeError: no kernel of vlapack takes such a value.
    """
    if parameter.constant or value is None:
        return f"={literal(value)}"
    hinted = parameter.specialized
    if isinstance(value, Tensor) and value.dtype in POINTERS:
        aligned = hinted and value.data_ptr() % ALIGNMENT == 0
        return f"*{POINTERS[value.dtype]}{':16' if aligned else ''}"
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        base = "i32" if -(1 << 31) <= value < 1 << 31 else "i64"
        if hinted and value == 1:
            return f"{base}=1"
        return f"{base}:16" if hinted and value % ALIGNMENT == 0 else base
    if type(value) is float:
        return "fp32"
    kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
    raise TypeError(f"the argument {parameter.name} is {kind}, which no shipped kernel takes")


def literal(value: Any) -> str:
    """Write a constant: a type by its name, anything else as JSON."""
    if isinstance(value, constexpr):
        value = value.value
    if isinstance(value, Type):
        return value.name
    # As JSON has numbers, without its encoder: this runs for every launch.
    return repr(value) if type(value) in (int, float) else json.dumps(value)


def best(variants: Iterable[Variant], launch: Variant) -> Variant | None:
    """Return of those that are right for a launch the one with the most hints; None if none is."""
    return max((variant for variant in variants if variant.takes(launch)), key=lambda one: one.hints, default=None)


def _base(word: str) -> str:
    return word if word.startswith("=") else _HINT.split(word)[0]
