"""Machine code that Triton 3.9 made of the prototypes of our kernels, recorded by its own disassembler."""

from __future__ import annotations

from pathlib import Path

from gate.machine_code import MachineCode, read_nvidia

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(encoding="utf-8")


def product(
    disassembly: str, *, usage: str = "product.usage", ptx: str = "exact.ptx", shared: int = 12288, ttgir: str = ""
) -> MachineCode:
    """Read a recorded 4-bit product of 4 warps."""
    return read_nvidia(
        recorded(disassembly), recorded(usage), recorded(ptx), recorded("product.ttir"), ttgir, shared, 4
    )
