"""Which instructions of NVIDIA's and AMD's machine code are tensor-core products, and which are bit operations.

Tensor-core instructions differ in size from card to card. They are counted as what they replace: one *unit* is
m16n8k32 of 8-bit integers or m16n8k16 of 16-bit floats, as one warp does it. A kernel's bit operations are counted per
unit, so that one bound holds for all cards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from gate.listing import Instruction

UNIT = 16 * 8 * 32
"""Multiply-accumulates of one unit on 8-bit integers; half of it on 16-bit floats."""

_SASS_BITS = {"LOP3", "LOP", "PRMT", "SHF", "SHL", "SHR", "BFE", "BFI", "SGXT", "BMSK"}
_SASS_MATRIX = re.compile(r"[A-Z]+MMA$")
_SASS_8_BIT = ("IMMA", "QMMA")
_AMD_BITS = re.compile(r"v_(pk_)?(and|or|xor|xad|not|lsh|ashr|alignb|perm_b32|bfe|bfi)")
_AMD_MATRIX = re.compile(r"v_(mfma|wmma|smfmac|swmmac)_(?:i32|f32)_(\d+)x(\d+)x(\d+)_?(\w*)")


@dataclass(frozen=True)
class Dialect:
    """How one maker's instructions are told apart.

    Args:
        family: a tensor-core instruction → its family, as `IMMA`; None for any other.
        units: a tensor-core instruction → how many units it does; 0 for any other.
        is_bits: whether an instruction shifts, masks or shuffles bits.
    """

    family: Callable[[Instruction], str | None]
    units: Callable[[Instruction], float]
    is_bits: Callable[[Instruction], bool]


def sass(tensor_memory_units: float = 0.0) -> Dialect:
    """Return NVIDIA's dialect.

    Args:
        tensor_memory_units: of one tcgen05 instruction, whose shape is in a register and not in its name.
    """
    return Dialect(_sass_family, lambda one: _sass_units(one, tensor_memory_units), _is_sass_bits)


def _sass_family(instruction: Instruction) -> str | None:
    return instruction.name if _SASS_MATRIX.match(instruction.name) else None


def _sass_units(instruction: Instruction, tensor_memory_units: float) -> float:
    family = _sass_family(instruction)
    if family is None:
        return 0.0
    if family.startswith("UTC"):
        return tensor_memory_units
    if shape := re.match(r"\.64x(\d+)x\d+", instruction.modifiers):  # a warp group's four warps have 16 rows each
        return int(shape.group(1)) / 8
    if shape := re.match(r"\.(16|8)8(\d+)", instruction.modifiers):
        return int(shape.group(1)) * 8 * int(shape.group(2)) / (UNIT if family in _SASS_8_BIT else UNIT / 2)
    return 1.0


def _is_sass_bits(instruction: Instruction) -> bool:
    shifts = instruction.name == "IMAD" and instruction.modifiers.startswith(".SHL")
    return shifts or instruction.name in _SASS_BITS


def _amd_family(instruction: Instruction) -> str | None:
    found = _AMD_MATRIX.match(instruction.name)
    return found.group(1).upper() if found else None


def _amd_units(instruction: Instruction) -> float:
    found = _AMD_MATRIX.match(instruction.name)
    if found is None:
        return 0.0
    _, rows, columns, depth, operand = found.groups()
    return int(rows) * int(columns) * int(depth) / (UNIT if "8" in operand else UNIT / 2)


AMD = Dialect(_amd_family, _amd_units, lambda one: bool(_AMD_BITS.match(one.name)))
"""AMD's dialect."""
