"""The gate refuses what each of its rules is for, and says kernel, card, rule, found and allowed value."""

from __future__ import annotations

import dataclasses

import pytest
from gate.machine_code import read_amd
from gate.rules import refusals
from gate.targets import TARGETS
from gate_samples import product, recorded


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What a specimen demands; vlapack's own needs Triton."""

    name: str = "product"
    expects: str | None = "mma"
    bit_operations_bound: float | None = 4.0
    divides_exactly: bool = True


SM_89 = TARGETS["sm_89"]


def test_good_code_passes() -> None:
    assert refusals(Kernel(), SM_89, product("decode-sm_89.sass")) == []


def test_spills_are_refused() -> None:
    found = refusals(Kernel(), SM_89, product("spills-sm_89.sass", usage="spills.usage"))
    assert [str(one) for one in found] == [
        "product on sm_89: local memory: found 64 bytes a thread, allowed 0",
        "product on sm_89: spills: found 12 loads and stores, allowed 0",
    ]


def test_amds_spills_are_refused() -> None:
    code = read_amd(recorded("spills-gfx1151.s"), recorded("product.ttir"), 24576)
    found = refusals(Kernel(divides_exactly=False), TARGETS["gfx1151"], code)
    assert [one.rule for one in found] == ["local memory", "spills"]
    assert found[0].found == "840 bytes a thread"


def test_a_product_without_tensor_cores_is_refused() -> None:
    found = refusals(Kernel(bit_operations_bound=None), SM_89, product("no-product-sm_89.sass"))
    assert [str(one) for one in found] == ["product on sm_89: tensor cores: found none, allowed IMMA"]


def test_a_product_by_another_cards_tensor_cores_is_refused() -> None:
    found = refusals(Kernel(), TARGETS["sm_90"], product("decode-sm_89.sass"))
    assert [(one.rule, one.found, one.allowed) for one in found] == [("tensor cores", "8 IMMA", "IGMMA")]


def test_a_kernel_that_should_multiply_and_does_not_is_refused() -> None:
    code = dataclasses.replace(product("decode-sm_89.sass"), products=())
    assert [one.found for one in refusals(Kernel(), SM_89, code)] == ["no product in the source"]


def test_too_many_bit_operations_are_refused() -> None:
    found = refusals(Kernel(), SM_89, product("plain-sm_89.sass"))
    assert [(one.rule, one.allowed) for one in found] == [("bit operations", "4 each")]
    assert found[0].found == "129 of the main loop for 8 m16n8k32, 16.12 each"


def test_an_approximate_division_is_refused() -> None:
    found = refusals(Kernel(), SM_89, product("decode-sm_89.sass", ptx="approximate.ptx"))
    assert [(one.rule, one.found) for one in found] == [("exact division", "0 exact and 3 approximate")]


@pytest.mark.parametrize(("divides", "refused"), [(True, ["exact division"]), (False, [])])
def test_amds_division_is_exact_by_its_fixup(divides: bool, refused: list[str]) -> None:
    code = read_amd(recorded("decode-gfx942.s"), recorded("product.ttir"), 12288)
    found = refusals(Kernel(divides_exactly=divides), TARGETS["gfx942"], code)
    assert [one.rule for one in found] == refused


def test_more_shared_memory_than_the_card_has_is_refused() -> None:
    code = product("decode-sm_89.sass", shared=101377)
    assert [str(one) for one in refusals(Kernel(), SM_89, code)] == [
        "product on sm_89: shared memory: found 101377 bytes, allowed 101376 bytes"
    ]
    assert refusals(Kernel(), TARGETS["sm_87"], code) == []
