"""Telling Transformers of our format as soon as it is imported, before or after vlapack, and without importing it.

Its registries are in `transformers.quantizers.auto`, which every model imports. Where that is loaded already, we
register at once; else a finder, asked for that module alone, lets Python load it and registers afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

REGISTRY = "transformers.quantizers.auto"


def register_with_transformers() -> None:
    """Register now or when Transformers comes."""
    if REGISTRY in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterRegistry())


class _AfterRegistry(MetaPathFinder):
    """Registers once the registry's module has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the registry's module as Python would, and no other."""
        if fullname != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register()

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    import vlapack.quantize.in_transformers  # noqa: F401 - registers itself
