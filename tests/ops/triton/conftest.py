"""The kernels run under Triton's interpreter, on CPU tensors: the switch must be set before any of them is imported."""

from __future__ import annotations

import importlib.util
import os

os.environ["TRITON_INTERPRET"] = "1"

# Not a skip that VLAPACK_REQUIRE_EXTRAS forbids: Triton has no wheels but for Linux.
collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]
