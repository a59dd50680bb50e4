"""The kernels run under Triton's interpreter, on CPU tensors: the switch must be set before any of them is imported."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest
from extras import REQUIRE_EXTRAS

if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError(
        "a test module imported Triton before TRITON_INTERPRET=1 was set, so every kernel's test would fail; "
        "import it, and torch._dynamo or torch._inductor, which import it, inside a test"
    )
os.environ["TRITON_INTERPRET"] = "1"

HERE = importlib.util.find_spec("triton") is not None
# Triton has wheels for Linux only. Where every extra is required, its absence fails on import.
collect_ignore_glob = [] if HERE or os.environ.get(REQUIRE_EXTRAS) == "1" else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _count_by_tensors():
    """Let Triton 3.6 count with `range(first, end)`: numpy 2.4 no longer makes a number of an array [1]."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, *scope):
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patched
    yield
    interpreter._patch_lang_tensor = patch
