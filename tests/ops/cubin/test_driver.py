"""The driver's functions are called as NVIDIA's header declares them."""

from __future__ import annotations

import ctypes
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from extras import needs

from vlapack.ops.cubin import driver

BY_VALUE = {"unsigned int": ctypes.c_uint, "int": ctypes.c_int, "CUresult": ctypes.c_int, "CUdevice": ctypes.c_int}
ENUMERATION = "CUfunction_attribute"


@pytest.fixture(scope="module")
def header() -> str:
    needs("triton", remedy="pip install triton, which brings cuda.h and has wheels for Linux")
    spec = find_spec("triton")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "backends/nvidia/include/cuda.h").read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("name", driver._ARGUMENTS)
def test_parameters_have_the_headers_types(header: str, name: str) -> None:
    declared = re.search(rf"CUresult CUDAAPI {name}\(([^)]*)\)", header)
    assert declared is not None
    parameters = [re.sub(r"\w+$", "", parameter.strip()).strip() for parameter in declared.group(1).split(",")]
    ours = driver._ARGUMENTS[name]
    assert len(ours) == len(parameters)
    for kind, type_ in zip(parameters, ours, strict=True):
        if kind in BY_VALUE or kind == ENUMERATION:
            assert type_ is BY_VALUE.get(kind, ctypes.c_int), (name, kind)
        else:  # a handle or a pointer
            assert kind.endswith("*") or kind.startswith("CU"), kind
            assert ctypes.sizeof(type_) == ctypes.sizeof(ctypes.c_void_p), (name, kind)


def test_the_attribute_is_the_headers(header: str) -> None:
    assert f"CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = {driver.MAX_DYNAMIC_SHARED_SIZE_BYTES}," in header


def test_no_function_has_another_version_behind_its_name(header: str) -> None:
    """cuda.h renames old calls (`cuMemAlloc` is `cuMemAlloc_v2`); ours are what they are called."""
    for name in driver._ARGUMENTS:
        renamed = re.search(rf"#\s*define {name}\s+(\S+)", header)
        assert renamed is None or "_v" not in renamed.group(1), name
