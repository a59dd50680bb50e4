"""CONTRIBUTING's walks name places in the code: a place that is renamed or moved must be renamed there, too."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import vlapack

SOURCE = Path(vlapack.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
HEADING = "## Two walks through the code"
FILE = re.compile(r"`([\w/]+\.(?:py|cpp|hpp))`")
PLACE = re.compile(rf"{FILE.pattern}\s+·\s+`([\w.]+)`")


def walks() -> str:
    """The section, up to the next heading of its level."""
    return CONTRIBUTING.read_text(encoding="utf-8").partition(f"{HEADING}\n")[2].partition("\n## ")[0]


PLACES = sorted(set(PLACE.findall(walks())))


@cache
def python_names(path: Path) -> frozenset[str]:
    """What a module defines: functions, classes, their methods and fields as `Class.name`, and module-level values."""
    return frozenset(_names(ast.parse(path.read_text(encoding="utf-8")), ""))


def _names(scope: ast.Module | ast.ClassDef, prefix: str) -> list[str]:
    found = []
    for node in scope.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            found += _names(node, f"{prefix}{node.name}.")
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found += [prefix + target.id for target in targets if isinstance(target, ast.Name)]
    return found


def defines(path: Path, name: str) -> bool:
    """Whether a file defines the name; C++ is searched for a definition: a type, the name, arguments, a brace."""
    if path.suffix == ".py":
        return name in python_names(path)
    definition = rf"^(?:[\w:*&<>]+ )+[*&]?{re.escape(name)}\([^;{{]*\)(?: const)? \{{"
    return re.search(definition, path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_both_walks_are_there() -> None:
    assert len(PLACES) > 60
    assert {"csrc/linear.cpp", "policy/policy.py", "methods/gptq.py"} <= {file for file, _ in PLACES}


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_a_place_in_a_walk_exists(file: str, name: str) -> None:
    assert (SOURCE / file).is_file(), f"{HEADING}: there is no src/vlapack/{file}"
    assert defines(SOURCE / file, name), f"{HEADING}: src/vlapack/{file} defines no {name}"


def test_every_file_in_a_walk_comes_with_its_function() -> None:
    alone = [file for file in FILE.findall(PLACE.sub("", walks())) if not file.startswith("tests/")]
    assert not alone, f"{HEADING}: write `file` · `function` for {', '.join(alone)}"


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert not defines(SOURCE / "policy/policy.py", "Policy.observes")
    assert not defines(SOURCE / "csrc/linear.cpp", "first_column")
    assert not defines(SOURCE / "csrc/linear.cpp", "kernels")  # called there, defined elsewhere
