"""vlapack comes before torch in every benchmark: OpenMP reads how its threads wait once, when torch is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = Path(__file__).parents[2] / "scripts"
# A module of a package runs its `__init__` first.
FILES = [*sorted(BENCHMARKS.glob("*.py")), *sorted(BENCHMARKS.glob("*/__init__.py"))]
VLAPACK = {"vlapack", "common"}
TORCH = {"torch", "safetensors", "transformers"}


def imported(path: Path) -> Iterator[str]:
    """The packages that a file imports as it is loaded, in order; a script of ours is what it imports itself."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for name in (name.split(".")[0] for name in names):
            script = next((file for folder in (BENCHMARKS, SCRIPTS) if (file := folder / f"{name}.py").exists()), None)
            yield from [name] if script is None else imported(script)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_no_benchmark_imports_torch_before_vlapack(path: Path) -> None:
    first = next((name for name in imported(path) if name in VLAPACK | TORCH), None)
    assert first not in TORCH, f"{path.name} imports {first} before vlapack: put `import common` above it"
