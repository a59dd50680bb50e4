"""What the library says to a Python user: settings by their names, never a command's flags; one remedy to install."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlapack
from vlapack.errors import InputError, install

SOURCE = Path(vlapack.__file__).parent
PROJECT = Path(__file__).parents[1]
FLAG = re.compile(r"(?<![\w-])--[a-z]")
# A line for a shell, in backticks: whoever reads it, types it there.
SHELL_LINE = re.compile(r"`(vlapack|pip|apt-get|hf|python) [^`]*`")
# The command line itself.
COMMAND_LINE = ("commands/", "cli.py")


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every text with its line; of an f-string the whole, with a placeholder for each value."""
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part for part in node.values if isinstance(part, ast.Constant)]
            inner.update(parts)
            yield node.lineno, "".join(str(part.value) if part in parts else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inner:
            yield node.lineno, node.value


def flags_in(text: str) -> list[int]:
    """Return the lines of a module's text that name a flag outside a line for a shell."""
    return [line for line, said in strings(ast.parse(text)) if FLAG.search(SHELL_LINE.sub("", said))]


def test_only_the_command_line_names_flags() -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted(SOURCE.rglob("*.py"))
        if not path.relative_to(SOURCE).as_posix().startswith(COMMAND_LINE)
        for line in flags_in(path.read_text())
    ]
    assert not found, f"these name a flag; name the setting, such as `smooth=0`: {', '.join(found)}"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('x = "give --calib DIR"', [1]),
        ('\nx = f"{y}: give --calib {z}"', [2]),
        ('x = f"start one with `vlapack serve {y} --record`"', []),
        ('x = "models--google"', []),
        ('x = "remove `a` with --yes and `b`"', [1]),
    ],
)
def test_the_search_for_flags_sees_them_and_nothing_else(text: str, lines: list[int]) -> None:
    assert flags_in(text) == lines


def test_the_install_remedy_names_an_extra_that_exists_and_where() -> None:
    assert install("libero") == "`pip install '.[libero]'` in vlapack's source folder"
    assert install() == "`pip install .` in vlapack's source folder"
    assert "--force-reinstall" in install(again=True)
    declared = PROJECT.joinpath("pyproject.toml").read_text().split("[project.optional-dependencies]")[1]
    extras = re.findall(r"^(\w+) = \[", declared.split("\n[")[0], re.MULTILINE)
    said = {
        node.args[0].value
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "install" and node.args
        if isinstance(node.args[0], ast.Constant)
    }
    assert {"libero", "lerobot", "jax", "hub"} <= said <= set(extras)


def test_nothing_is_installed_from_an_index_where_vlapack_is_not() -> None:
    kinds = ("src", "docs", "plugins", "examples", "scripts")
    places = [path for kind in kinds for path in (PROJECT / kind).rglob("*.*")]
    wrong = re.compile(r"pip install [^`\n]*\bvlapack(\[|\b[>=]|['\"`]|$)", re.MULTILINE)
    found = [
        str(path.relative_to(PROJECT))
        for path in (*places, PROJECT / "README.md")
        if path.suffix in (".py", ".md") and wrong.search(path.read_text())
    ]
    assert not found


def test_an_error_keeps_its_field_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InputError("block = 3: a power of two", field="block")))
    assert (str(error), error.field) == ("block = 3: a power of two", "block")
