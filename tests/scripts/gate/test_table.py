"""The tables say what the rows say, and a ceiling is the arithmetic of issue slots."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from gate import table
from gate.run import Case, Outcome
from gate.targets import TARGETS
from gate_samples import product


def row(kernel: str, target: str, **changes: Any) -> dict[str, Any]:
    code = dataclasses.replace(product("decode-sm_89.sass"), **changes)
    return table.row(Outcome(Case(kernel, target, "0123"), code, ()))


def test_a_row_has_a_line_and_a_range_over_its_cards() -> None:
    rows = [row("decode", "sm_89"), row("decode", "sm_90", registers=45, shared=14336, matrix={"IGMMA": 4})]
    # 99 instructions for 8 units; a unit takes 4 cycles of 4 slots on sm_89, and 1 of them on sm_90: 8 · 4 of 99
    assert table.kernels(rows).splitlines()[2:] == [
        "| decode | sm_89, sm_90 | 45-50 | 12-14 | IGMMA IMMA | 3.1 | 32 % (sm_90) |"
    ]


def test_all_of_a_makers_cards_are_one_word() -> None:
    rows = [row("step", target, matrix={}) for target in TARGETS if target != "sm_110-tcgen05"]
    assert table.kernels(rows).splitlines()[2].startswith("| step | NVIDIA, AMD | 50 | 12 | – | – |")


@pytest.mark.parametrize(
    ("target", "instructions", "ceiling"), [("sm_80", 64, 1.0), ("sm_80", 128, 0.5), ("sm_86", 128, 1.0)]
)
def test_a_loop_with_more_instructions_than_slots_is_below_the_peak(
    target: str, instructions: int, ceiling: float
) -> None:
    code = dataclasses.replace(product("decode-sm_89.sass"), loop_instructions=instructions)
    assert table.issue_ceiling(code, TARGETS[target]) == ceiling


def test_without_a_published_rate_there_is_no_ceiling() -> None:
    assert table.issue_ceiling(product("decode-sm_89.sass"), TARGETS["gfx942"]) is None


def test_without_a_result_nothing_is_recorded(tmp_path: Path) -> None:
    assert table.recorded_sources(tmp_path / "gate.json") == {}
