"""What a compiled kernel's machine code shows: registers, memory, tensor-core and bit instructions, divisions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gate.dialects import AMD, Dialect, sass
from gate.listing import Instruction, Listing, read_amdgcn, read_sass

_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_PTX_EXACT = re.compile(r"\b(?:div|rcp)\.rn\.(?:ftz\.)?f32")
_PTX_APPROXIMATE = re.compile(r"\b(?:div\.(?:full|approx)|rcp\.approx)\.(?:ftz\.)?f32")
_TTIR_DOT = re.compile(r"tt\.dot (.*?): tensor<[\dx]+x(\w+)> \* tensor<[\dx]+x\w+> -> tensor<[\dx]+x(\w+)>")
_TENSOR_MEMORY = re.compile(r"ttng\.tc_gen5_mma .*?: !ttg\.memdesc<(\d+)x.*?, !ttg\.memdesc<\d+x(\d+)x")


@dataclass(frozen=True)
class MachineCode:
    """What one kernel's code for one card shows.

    Args:
        registers: of one thread.
        shared: bytes of shared memory of one program.
        stack: bytes of local memory of one thread: what is spilled, and arrays that registers cannot hold.
        local_accesses: instructions that read or write it.
        products: kinds of product in the kernel's source: `int8`, `float`.
        matrix: tensor-core instructions by family, in the whole kernel.
        looped: whether a loop has tensor-core instructions; if not, what follows is the whole kernel's.
        loop_units: products of the main loop, in units (`dialects.py`).
        loop_instructions: all instructions of the main loop.
        loop_bits: its bit operations.
        exact_divisions: divisions that are rounded correctly.
        approximate_divisions: divisions that are not.
    """

    registers: int
    shared: int
    stack: int
    local_accesses: int
    products: tuple[str, ...]
    matrix: dict[str, int]
    looped: bool
    loop_units: float
    loop_instructions: int
    loop_bits: int
    exact_divisions: int
    approximate_divisions: int

    @property
    def bits_per_unit(self) -> float:
        """Bit operations of the main loop per unit of its products; 0 without products."""
        return self.loop_bits / self.loop_units if self.loop_units else 0.0

    @property
    def instructions_per_unit(self) -> float:
        """All instructions of the main loop per unit of its products; 0 without products."""
        return self.loop_instructions / self.loop_units if self.loop_units else 0.0


def read_nvidia(  # noqa: PLR0917 - one argument for each tool's output
    disassembly: str, usage: str, ptx: str, ttir: str, ttgir: str, shared: int, warps: int
) -> MachineCode:
    """Read what the tools say of a cubin.

    Args:
        disassembly: `nvdisasm -c`.
        usage: `cuobjdump -res-usage`.
        ptx: what the cubin was assembled from.
        ttir: Triton's own code, where the products are still products.
        ttgir: the same after layouts were chosen.
        shared: bytes of shared memory that a launch asks for.
        warps: of one program.
    """
    found = _USAGE.search(usage)
    assert found is not None, f"cuobjdump says no usage: {usage[-200:]!r}"
    registers, stack, _, local = map(int, found.groups())
    tile = _TENSOR_MEMORY.search(ttgir)
    tile_units = int(tile.group(1)) * int(tile.group(2)) / (16 * 8 * warps) if tile else 0.0
    listing = read_sass(disassembly)
    return MachineCode(
        registers=registers,
        shared=shared,
        stack=stack + local,
        local_accesses=sum(one.name in ("LDL", "STL") for one in listing.instructions),
        products=products(ttir),
        exact_divisions=len(_PTX_EXACT.findall(ptx)),
        approximate_divisions=len(_PTX_APPROXIMATE.findall(ptx)),
        **_counted(listing, sass(tile_units)),
    )


def read_amd(assembly: str, ttir: str, shared: int) -> MachineCode:
    """Read the assembly that Triton writes for AMD's cards; arguments as in `read_nvidia`."""

    def stated(name: str) -> int:
        found = re.search(rf"^\s+\.{name}:\s+(\d+)", assembly, re.MULTILINE)
        assert found is not None, f"the assembly does not say {name}"
        return int(found.group(1))

    listing = read_amdgcn(assembly)
    scratch = sum(one.name.startswith("scratch_") for one in listing.instructions)
    return MachineCode(
        registers=stated("vgpr_count"),
        shared=shared,
        stack=stated("private_segment_fixed_size"),
        local_accesses=stated("vgpr_spill_count") + scratch,
        products=products(ttir),
        exact_divisions=sum(one.name.startswith("v_div_fixup_f32") for one in listing.instructions),
        approximate_divisions=0,  # v_rcp_f32 belongs to integer divisions, too; the missing fixup is what tells
        **_counted(listing, AMD),
    )


def products(ttir: str) -> tuple[str, ...]:
    """Return what the kernel's products multiply: `int8`, `float` or both; products in fp32 need no tensor core."""
    found = set()
    for options, operand, result in _TTIR_DOT.findall(ttir):
        if result == "i32":
            found.add("int8")
        elif operand != "f32" or "tf32" in options:
            found.add("float")
    return tuple(sorted(found))


def _counted(listing: Listing, dialect: Dialect) -> dict[str, object]:
    loop = _main_loop(listing, dialect)
    body = listing.instructions if loop is None else loop
    return {
        "matrix": dict(Counter(name for one in listing.instructions if (name := dialect.family(one)))),
        "looped": loop is not None,
        "loop_units": sum(map(dialect.units, body)),
        "loop_instructions": len(body),
        "loop_bits": sum(map(dialect.is_bits, body)),
    }


def _main_loop(listing: Listing, dialect: Dialect) -> Sequence[Instruction] | None:
    """Return the innermost loop with the most products, if one has any."""
    spans = [span for span in listing.loops() if any(map(dialect.units, listing.instructions[span]))]
    inner = [
        span
        for span in spans
        if not any(one != span and span.start <= one.start and one.stop <= span.stop for one in spans)
    ]
    found = (listing.instructions[span] for span in inner)
    return max(found, key=lambda loop: sum(map(dialect.units, loop)), default=None)
