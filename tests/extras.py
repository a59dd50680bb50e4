"""What some tests need beyond `pip install '.[dev]'`: one place decides whether a missing module skips them."""

from __future__ import annotations

import importlib.util
import os

import pytest

REQUIRE_EXTRAS = "VLAPACK_REQUIRE_EXTRAS"
"""Set to 1 by `make test`, whose environment has every extra: a missing module is then a failure."""


def needs(*modules: str, remedy: str) -> None:
    """Skip the test, fixture or test module that calls this where a module is missing.

    Args:
        modules: top-level packages, or modules of vlapack
        remedy: what brings them, e.g. "pip install '.[lerobot]'"
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if not missing:
        return
    reason = f"{', '.join(missing)} not installed: {remedy}"
    if os.environ.get(REQUIRE_EXTRAS) == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)
