"""What code may rely on is said by words that are compared, and a launch gets code that is right for it, or none."""

from __future__ import annotations

import pytest
import torch

from vlapack.ops.cubin.language import Parameter, Type, constexpr
from vlapack.ops.cubin.variant import Variant, best, word

PLAIN, COUNT, CONSTANT = Parameter("x", False, True), Parameter("x", False, False), Parameter("x", True, True)


def variant(*arguments: str, kernel: str = "rows.rows_kernel", **options: int) -> Variant:
    return Variant(kernel, arguments, tuple(sorted(options.items())))


@pytest.mark.parametrize(
    ("value", "parameter", "expected"),
    [
        (torch.zeros(8, dtype=torch.bfloat16), PLAIN, "*bf16:16"),
        (torch.zeros(8, dtype=torch.bfloat16)[1:], PLAIN, "*bf16"),
        (torch.zeros(8, dtype=torch.uint16), COUNT, "*u16"),
        (0, PLAIN, "i32:16"),
        (1, PLAIN, "i32=1"),
        (-16, PLAIN, "i32:16"),
        (17, PLAIN, "i32"),
        (1, COUNT, "i32"),
        (16, COUNT, "i32"),
        (2**31 - 1, PLAIN, "i32"),
        (2**31, PLAIN, "i64:16"),
        (-(2**31) - 1, PLAIN, "i64"),
        (0.5, PLAIN, "fp32"),
        (None, PLAIN, "=null"),
        (1, CONSTANT, "=1"),
        (1.0, CONSTANT, "=1.0"),
        (True, CONSTANT, "=true"),
        ("plain", CONSTANT, '="plain"'),
        (Type("bfloat16"), CONSTANT, "=bfloat16"),
        (constexpr(3), CONSTANT, "=3"),
    ],
)
def test_a_word_says_type_and_hints(value: object, parameter: Parameter, expected: str) -> None:
    assert word(value, parameter) == expected


@pytest.mark.parametrize("value", [torch.zeros(2, dtype=torch.float64), True, 2**63, "plain", [1]])
def test_an_argument_that_no_kernel_takes_is_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError, match="the argument x is "):
        word(value, PLAIN)


LAUNCH = variant("*fp32:16", "i32:16", "i32=1", "=4", num_warps=4)


@pytest.mark.parametrize(
    ("code", "right"),
    [
        (LAUNCH, True),
        (variant("*fp32", "i32", "i32", "=4", num_warps=4), True),
        (variant("*fp32:16", "i32", "i32=1", "=4", num_warps=4), True),
        (variant("*bf16:16", "i32:16", "i32=1", "=4", num_warps=4), False),
        (variant("*fp32:16", "i32=1", "i32=1", "=4", num_warps=4), False),
        (variant("*fp32:16", "i32:16", "i32:16", "=4", num_warps=4), False),
        (variant("*fp32:16", "i64", "i32=1", "=4", num_warps=4), False),
        (variant("*fp32:16", "i32:16", "i32=1", "=8", num_warps=4), False),
        (variant("*fp32:16", "i32:16", "=1", "=4", num_warps=4), False),
        (variant("*fp32:16", "i32:16", "i32=1", "=4", num_warps=8), False),
        (variant("*fp32:16", "i32:16", "i32=1", num_warps=4), False),
        (variant("*fp32:16", "i32:16", "i32=1", "=4", num_warps=4, kernel="rows.other"), False),
    ],
)
def test_code_is_right_for_a_launch_that_keeps_what_it_relies_on(code: Variant, right: bool) -> None:
    assert code.takes(LAUNCH) is right


def test_code_with_the_most_hints_is_taken() -> None:
    none = variant("*fp32", "i32", "i32", "=4", num_warps=4)
    one = variant("*fp32:16", "i32", "i32", "=4", num_warps=4)
    assert best([none, one], LAUNCH) == one
    assert best([one], variant("*fp32", "i32", "i32", "=4", num_warps=4)) is None


def test_only_what_is_not_compiled_in_is_passed() -> None:
    one = variant("*u16:16", "=null", "i32=1", "i32", "i64:16", "fp32", '="a=b"')
    assert one.passed == (0, 3, 4, 5)
    assert one.slots == ("Q", "i4x", "q", "f4x")
