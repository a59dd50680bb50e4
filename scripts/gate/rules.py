"""What the machine code of every kernel must show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gate.machine_code import MachineCode
from gate.targets import Target


class Demands(Protocol):
    """What a kernel demands of its code: fields of `vlapack.ops.triton.specimen.Specimen`."""

    @property
    def name(self) -> str:
        """Of the kernel with its tile."""

    @property
    def expects(self) -> str | None:
        """`mma` if it must use tensor cores."""

    @property
    def bit_operations_bound(self) -> float | None:
        """Most bit operations per unit of its products."""

    @property
    def divides_exactly(self) -> bool:
        """Whether it must divide with correct rounding."""


@dataclass(frozen=True)
class Refusal:
    """One demand that is not met."""

    kernel: str
    target: str
    rule: str
    found: str
    allowed: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.kernel} on {self.target}: {self.rule}: found {self.found}, allowed {self.allowed}"


def refusals(kernel: Demands, target: Target, code: MachineCode) -> list[Refusal]:
    """Return every demand that the code does not meet."""
    found = [
        (rule, got, allowed)
        for rule, good, got, allowed in (
            ("local memory", not code.stack, f"{code.stack} bytes a thread", "0"),
            ("spills", not code.local_accesses, f"{code.local_accesses} loads and stores", "0"),
            (
                "shared memory",
                code.shared <= target.shared_limit,
                f"{code.shared} bytes",
                f"{target.shared_limit} bytes",
            ),
            *_tensor_cores(kernel, target, code),
            *_bit_operations(kernel, target, code),
            *_divisions(kernel, code),
        )
        if not good
    ]
    return [Refusal(kernel.name, target.name, *one) for one in found]


_Checked = tuple[str, bool, str, str]


def _tensor_cores(kernel: Demands, target: Target, code: MachineCode) -> list[_Checked]:
    if kernel.expects is None:
        return []
    rule = "tensor cores"
    seen = ", ".join(f"{count} {family}" for family, count in sorted(code.matrix.items())) or "none"
    if not code.products:
        return [(rule, False, "no product in the source", "one")]
    checked = []
    for kind in code.products:
        families = target.families[kind]  # type: ignore[index]
        checked.append((rule, any(one in code.matrix for one in families), seen, " or ".join(sorted(families))))
    return checked


def _bit_operations(kernel: Demands, target: Target, code: MachineCode) -> list[_Checked]:
    bound = kernel.bit_operations_bound
    if bound is None or target.backend != "cuda":  # the bounds are the inline assembly's, which is NVIDIA's
        return []
    where = "of the main loop" if code.looped else "of the kernel"
    got = f"{code.loop_bits} {where} for {code.loop_units:g} m16n8k32, {code.bits_per_unit:.2f} each"
    return [("bit operations", code.loop_units > 0 and code.bits_per_unit <= bound, got, f"{bound:g} each")]


def _divisions(kernel: Demands, code: MachineCode) -> list[_Checked]:
    if not kernel.divides_exactly:
        return []
    got = f"{code.exact_divisions} exact and {code.approximate_divisions} approximate"
    good = code.exact_divisions > 0 and not code.approximate_divisions
    return [("exact division", good, got, "at least one exact (div.rn, v_div_fixup) and no approximate")]
