"""The stand-in is Triton for the modules of kernels, and for nobody else."""

from __future__ import annotations

import importlib
import subprocess
import sys
from contextlib import suppress
from types import ModuleType

import pytest
from extras import needs

from vlapack.errors import InputError
from vlapack.ops.cubin.language import KERNELS, TRITON, import_kernels, stand_in


def launch(*_: object) -> None:
    raise AssertionError


def test_what_was_triton_before_is_triton_again(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ModuleType("triton")
    monkeypatch.setitem(sys.modules, "triton", there)
    monkeypatch.delitem(sys.modules, "triton.language", raising=False)
    with suppress(ZeroDivisionError), stand_in(launch):
        assert sys.modules["triton"] is not there
        _ = 1 // 0
    assert sys.modules["triton"] is there
    assert "triton.language" not in sys.modules


IMPORT = """
import sys
sys.path[:0] = {path!r}
sys.modules["triton"] = None  # not installed
from vlapack.ops.cubin.language import import_kernels
import_kernels(print)
import vlapack.ops.triton.rows as rows, vlapack.ops.triton.blocks as blocks
named = {{p.name: p for p in blocks.blocks_kernel.parameters}}
print([(named[n].constant, named[n].specialized) for n in ("x_ptr", "rows", "TILE")])
print(blocks.triton.cdiv(7, 3), blocks.triton.next_power_of_2(1152), rows.rows_kernel.name, sys.modules["triton"])
"""


def test_every_module_of_kernels_can_be_imported_without_triton() -> None:
    command = [sys.executable, "-c", IMPORT.format(path=sys.path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == [
        "[(False, True), (False, False), (True, True)]",
        "3 2048 rows.rows_kernel None",
    ], ran.stderr


def test_kernels_that_triton_has_already_are_not_taken_over(forget_kernels: object) -> None:
    needs("triton", remedy="pip install triton, which has wheels for Linux")
    importlib.import_module(f"{KERNELS}.tiles")
    with pytest.raises(InputError, match=r"VLAPACK_KERNELS was set after vlapack\.ops\.triton\.tiles"):
        import_kernels(launch)
    assert not any(hasattr(sys.modules[name], "__stands_in__") for name in TRITON)


def test_a_second_import_finds_the_first_ones_kernels(forget_kernels: object) -> None:
    import_kernels(launch)
    kernel = importlib.import_module(f"{KERNELS}.rows").rows_kernel
    import_kernels(launch)
    assert importlib.import_module(f"{KERNELS}.rows").rows_kernel is kernel
