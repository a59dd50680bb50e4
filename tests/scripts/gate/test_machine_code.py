"""What is read from machine code is what stands in it, for each way in which cards multiply."""

from __future__ import annotations

import pytest
from gate.dialects import AMD, sass
from gate.listing import Instruction, read_sass
from gate.machine_code import products, read_amd
from gate_samples import product, recorded

# The recorded tile: 16 tokens × 64 outputs × 128 channels a turn of the loop, by 4 warps.
UNITS = 16 * 64 * 128 / (16 * 8 * 32) / 4


def test_a_product_by_imma_is_counted() -> None:
    code = product("decode-sm_89.sass")
    assert (code.registers, code.stack, code.local_accesses) == (50, 0, 0)
    assert code.products == ("int8",)
    assert code.matrix == {"IMMA": 8}
    assert (code.looped, code.loop_units, code.loop_instructions) == (True, UNITS, 99)
    # 8 registers of nibbles for each of two halves: shift and mask, and mask; and one shift for an address
    assert code.loop_bits == 8 * 3 + 1


@pytest.mark.parametrize(
    ("disassembly", "ttgir", "matrix"),
    [
        ("decode-sm_90.sass", "", {"IGMMA": 4}),
        ("decode-sm_100.sass", "product-sm_100.ttgir", {"UTCIMMA": 4}),
    ],
)
def test_larger_instructions_count_as_the_same_products(disassembly: str, ttgir: str, matrix: dict[str, int]) -> None:
    code = product(disassembly, ttgir=recorded(ttgir) if ttgir else "")
    assert code.matrix == matrix
    assert code.loop_units == UNITS
    assert 24 <= code.loop_bits <= 27


def test_amds_assembly_is_counted() -> None:
    code = read_amd(recorded("decode-gfx942.s"), recorded("product.ttir"), 12288)
    assert (code.registers, code.stack, code.local_accesses) == (44, 0, 0)
    assert code.matrix == {"MFMA": 4}
    assert (code.looped, code.loop_units) == (True, UNITS)


@pytest.mark.parametrize(
    ("name", "modifiers", "units"),
    [
        ("IMMA", ".16832.S8.S8.SAT", 1.0),
        ("IMMA", ".16816.S8.S8", 0.5),
        ("IMMA", ".8816.S8.S8", 0.25),
        ("HMMA", ".16816.F32.BF16", 1.0),
        ("HMMA", ".1688.F32.BF16", 0.5),
        ("IGMMA", ".64x128x32.S8.S8", 16.0),
        ("HGMMA", ".64x64x16.F32.BF16", 8.0),
        ("UTCIMMA", "", 32.0),
        ("LDSM", ".16.M88.4", 0.0),
    ],
)
def test_nvidias_shapes_are_known(name: str, modifiers: str, units: float) -> None:
    assert sass(32.0).units(Instruction(name, modifiers)) == units


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("v_mfma_i32_32x32x16_i8", 4.0),
        ("v_mfma_i32_16x16x64_i8", 4.0),
        ("v_mfma_f32_16x16x16_bf16", 2.0),
        ("v_wmma_i32_16x16x16_iu8", 1.0),
        ("v_wmma_f32_16x16x16_bf16", 2.0),
        ("v_mul_lo_u32", 0.0),
    ],
)
def test_amds_shapes_are_known(name: str, units: float) -> None:
    assert AMD.units(Instruction(name)) == units


def test_a_jump_forward_is_no_loop_and_neither_is_the_trap_at_the_end() -> None:
    forward = ["/*0000*/ @P0 BRA `(.L_x_0) ;", "/*0010*/ NOP ;", ".L_x_0:", "/*0020*/ EXIT ;"]
    trap = [".L_x_1:", "/*0030*/ BRA `(.L_x_1);"]
    text = "\n".join([*forward, *trap])
    assert read_sass(text).loops() == []


def test_without_a_loop_the_whole_kernel_is_measured() -> None:
    code = product("no-product-sm_89.sass")
    assert not code.looped
    assert code.loop_instructions == 35


@pytest.mark.parametrize(
    ("line", "kinds"),
    [
        ("%a = tt.dot %x, %y, %z : tensor<16x64xbf16> * tensor<64x16xbf16> -> tensor<16x16xf32> loc(#loc)", ("float",)),
        ("%a = tt.dot %x, %y, %z : tensor<16x64xf32> * tensor<64x16xf32> -> tensor<16x16xf32> loc(#loc)", ()),
        ("%a = arith.addi %x, %y : i32", ()),
    ],
)
def test_products_in_fp32_need_no_tensor_cores(line: str, kinds: tuple[str, ...]) -> None:
    assert products(line) == kinds
