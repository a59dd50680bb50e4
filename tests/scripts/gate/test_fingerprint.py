"""A kernel is compiled again if, and only if, something that it is made from has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from gate.fingerprint import source_key, sources
from gate.run import Case, changed
from gate.targets import TARGETS

HELPER = "def helper(x):\n    return x + STEP\n"
KERNEL = "def kernel(x_ptr, BM):\n    return helper(x_ptr) * BM\n"


@dataclass(frozen=True)
class Specimen:
    kernel: Any
    signature: dict[str, str] = field(default_factory=lambda: {"x_ptr": "*i8"})
    constexprs: dict[str, Any] = field(default_factory=lambda: {"BM": 16, "ASM": True})
    num_warps: int = 4
    num_stages: int = 3


@pytest.fixture
def compiled() -> Callable[..., Any]:
    """Make the function of a text, as `@triton.jit` would, in a module of its own."""

    def make(helper: str = HELPER, kernel: str = KERNEL, step: int = 1, module_name: str = "some_kernels") -> Any:
        module = ModuleType(module_name)
        module.__dict__["STEP"] = step
        for text in (helper, kernel):
            exec(text, module.__dict__)
            name = text.strip().split("(")[0].removeprefix("def ")
            module.__dict__[name] = SimpleNamespace(fn=module.__dict__[name], src=text.strip() + "\n")
        return module.__dict__["kernel"]

    return make


def test_a_function_that_moved_is_the_same(compiled: Callable[..., Any]) -> None:
    assert sources(compiled(kernel=f"\n\n{KERNEL}", module_name="other_kernels")) == sources(compiled())


@pytest.mark.parametrize(
    "change",
    [{"step": 2}, {"helper": HELPER.replace("+", "-")}, {"kernel": KERNEL.replace("*", "+")}],
    ids=["a constant", "a function that it calls", "itself"],
)
def test_what_the_kernel_is_made_from_changes_its_key(compiled: Callable[..., Any], change: dict[str, Any]) -> None:
    target = TARGETS["sm_89"]
    assert source_key(Specimen(compiled(**change)), target) != source_key(Specimen(compiled()), target)


@pytest.mark.parametrize(
    "change",
    [{"num_warps": 8}, {"num_stages": 2}, {"constexprs": {"BM": 32, "ASM": True}}, {"signature": {"x_ptr": "*u8"}}],
    ids=lambda change: next(iter(change)),
)
def test_how_it_is_compiled_changes_its_key(compiled: Callable[..., Any], change: dict[str, Any]) -> None:
    target, before = TARGETS["sm_89"], Specimen(compiled())
    assert source_key(replace(before, **change), target) != source_key(before, target)


def test_both_of_thors_variants_have_a_key() -> None:
    specimen = Specimen(SimpleNamespace(fn=len_of, src="def len_of(x): return 1\n"))
    keys = {source_key(specimen, TARGETS[name]) for name in ("sm_100", "sm_110", "sm_110-tcgen05")}
    assert len(keys) == 3


def len_of(x: object) -> int:
    return 1


def test_only_what_differs_from_the_record_has_changed() -> None:
    same, other, new = Case("a", "sm_80", "1"), Case("b", "sm_80", "2"), Case("c", "sm_80", "3")
    assert changed([same, other, new], {("a", "sm_80"): "1", ("b", "sm_80"): "9"}) == [other, new]
