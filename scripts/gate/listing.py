"""Disassembly as a list of instructions with their jumps: NVIDIA's by nvdisasm, AMD's as Triton writes it.

A kernel's main loop is found by its backward jump, since what a product costs is decided there and what stands before
and behind it is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SASS = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)((?:\.\w+)*)\s*(.*)")
_SASS_LABEL = re.compile(r"^(\.L_\w+):")
_SASS_JUMP = re.compile(r"`\((\.L_\w+)\)")
_AMD = re.compile(r"^\t([a-z]\w*)\s*(.*)")
_AMD_LABEL = re.compile(r"^(\.LBB\w+):")
_AMD_JUMP = re.compile(r"(\.LBB\w+)")


@dataclass(frozen=True)
class Instruction:
    """One instruction: `IMMA`, `.16832.S8.S8.SAT`, and the label that it jumps to."""

    name: str
    modifiers: str = ""
    jump: str | None = None


@dataclass(frozen=True)
class Listing:
    """A kernel's instructions in their order, and where the labels stand among them."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    def loops(self) -> list[slice]:
        """Return where the loops are: from a label to the last jump back to it."""
        ends: dict[int, int] = {}
        for end, instruction in enumerate(self.instructions):
            start = self.labels.get(instruction.jump or "", end)
            if start < end:  # a jump to itself is the trap behind a kernel's end
                ends[start] = end
        return [slice(start, end + 1) for start, end in ends.items()]


def read_sass(text: str) -> Listing:
    """Read what `nvdisasm -c` writes of a cubin that holds one kernel."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _SASS_LABEL.match(line):
            labels[label.group(1)] = len(instructions)
        elif found := _SASS.search(line):
            name, modifiers, operands = found.groups()
            jump = _SASS_JUMP.search(operands) if name in ("BRA", "BRX", "JMP") else None
            instructions.append(Instruction(name, modifiers, jump.group(1) if jump else None))
    return Listing(tuple(instructions), labels)


def read_amdgcn(text: str) -> Listing:
    """Read the assembly of one kernel for AMD's cards."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _AMD_LABEL.match(line):
            labels[label.group(1)] = len(instructions)
        elif found := _AMD.match(line):
            name, operands = found.groups()
            jump = _AMD_JUMP.search(operands) if "branch" in name else None
            instructions.append(Instruction(name, "", jump.group(1) if jump else None))
    return Listing(tuple(instructions), labels)
