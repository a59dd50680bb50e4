"""Write docs/api.md from the docstrings of the public names; with --check, only say whether the page is stale.

    python scripts/make_api_docs.py [--check]

The sources are parsed, not imported, so it needs no torch. A docstring that leaves out a parameter is an error.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
WIDTH = 120

INTRODUCTION = """# Python API

<!-- Made from the docstrings by `python scripts/make_api_docs.py`; edit those, and run it again. -->

```python
from vlapack import Checkpoint, Policy, Recipe, load_, make_pack, open_checkpoint, quantize_, save
```

Import vlapack before torch: OpenMP's waiting threads then sleep ([what that is worth](runtime.md#waiting-threads)).
Bad input raises `vlapack.errors.InputError`, failed work `vlapack.errors.WorkError`.
"""
# Import path that the reader types → the names that it offers, and the module which defines each.
PUBLIC: dict[str, dict[str, str]] = {
    "vlapack": {
        "Policy": "vlapack.policy.policy",
        "open_checkpoint": "vlapack.checkpoints",
        "Checkpoint": "vlapack.checkpoints.base",
        "Recipe": "vlapack.recipe.recipe",
        "make_pack": "vlapack.packing.make",
        "quantize_": "vlapack.quantize.inplace",
        "save": "vlapack.checkpoints.module",
        "load_": "vlapack.checkpoints.module",
    },
    "vlapack.policy.rtc": {"RealTime": "vlapack.policy.rtc", "Tail": "vlapack.policy.rtc"},
    "vlapack.packing.make": {"Report": "vlapack.packing.make"},
    "vlapack.openpi": {"enable_duquant_if_configured": "vlapack.openpi"},
    "vlapack.serve.client": {"AsyncPolicy": "vlapack.serve.asynchronous", "RemotePolicy": "vlapack.serve.remote"},
    "vlapack.serve.actions": {"Statistics": "vlapack.serve.actions", "Spread": "vlapack.serve.actions"},
    "vlapack.lerobot": {
        "predict_chunk": "vlapack.lerobot",
        "left_over": "vlapack.lerobot",
        "read_batch": "vlapack.lerobot",
    },
    "vlapack.errors": {"InputError": "vlapack.errors", "WorkError": "vlapack.errors"},
}

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):\n", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(?! )([^:]+): ", re.MULTILINE)


@dataclass(frozen=True)
class Docstring:
    """One docstring in Google's style, taken apart.

    Attributes:
        text: everything before the first section
        sections: title → its text
    """

    text: str
    sections: dict[str, str]

    @classmethod
    def of(cls, node: ast.FunctionDef | ast.ClassDef, name: str) -> Docstring:
        """Take the docstring of a definition apart; a public name without one is an error."""
        found = ast.get_docstring(node)
        if found is None:
            sys.exit(f"{name} has no docstring")
        text, *rest = SECTION.split(inspect.cleandoc(found) + "\n")
        return cls(text.strip(), dict(zip(rest[::2], rest[1::2], strict=True)))

    def entries(self, title: str) -> dict[str, str]:
        """Return what a section says of each name, on one line."""
        _, *rest = ENTRY.split(self.sections.get(title, ""))
        return {name: " ".join(words.split()) for name, words in zip(rest[::2], rest[1::2], strict=True)}


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for module, names in PUBLIC.items():
        parts.append(f"## {module}\n")
        for name, home in names.items():
            parts += _definition(_find(home, name), name, home)
    return "\n".join(parts)


def _find(home: str, name: str) -> ast.FunctionDef | ast.ClassDef:
    """Return the definition of a name in its module."""
    for node in _parsed(home).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node
    sys.exit(f"{home} does not define {name}")


def _parsed(home: str) -> ast.Module:
    """Return a module's source, parsed."""
    path = ROOT / "src" / Path(*home.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(source.read_text(encoding="utf-8"))


def _definition(node: ast.FunctionDef | ast.ClassDef, name: str, home: str) -> Iterator[str]:
    """Describe a function, or a class with its fields and public methods."""
    if isinstance(node, ast.FunctionDef):
        yield from _function(node, name, "###")
        return
    doc = Docstring.of(node, name)
    yield f"### `{name}`\n"
    yield from _prose(doc)
    if fields := list(_fields(node)):
        yield "| field | type | default | |\n|---|---|---|---|"
        yield from fields
        yield ""
    for method in (*_inherited(node, home), *node.body):
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            yield from _function(method, f"{name}.{method.name}", "####")


def _inherited(node: ast.ClassDef, home: str) -> Iterator[ast.stmt]:
    """Yield what a class has from bases of ours, which its module imports by their names."""
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    for line in _parsed(home).body:
        if isinstance(line, ast.ImportFrom) and str(line.module).startswith("vlapack."):
            for base in bases & {alias.name for alias in line.names}:
                found = _find(str(line.module), base)
                if isinstance(found, ast.ClassDef):
                    yield from (*_inherited(found, str(line.module)), *found.body)


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """Rows of a dataclass's fields; a string below a field describes it."""
    for field, below in zip(node.body, [*node.body[1:], None], strict=True):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        described = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if not described:
            sys.exit(f"{node.name}.{field.target.id} is not described")
        text = " ".join(str(below.value.value).split())
        default = "" if field.value is None else f"`{ast.unparse(field.value)}`"
        kind = ast.unparse(field.annotation)
        yield f"| `{field.target.id}` | `{_cell(kind)}` | {_cell(default)} | {_cell(text)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _function(node: ast.FunctionDef, name: str, level: str) -> Iterator[str]:
    """Describe a function, method or property."""
    doc = Docstring.of(node, name)
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    yield f"{level} `{name}`\n"
    if "property" in decorators:
        yield f"```python\n{name}: {_annotation(node.returns)}\n```\n"
    else:
        yield f"```python\n{_signature(node, name, bound='.' in name)}\n```\n"
        missing = [known for known in _names(node.args, bound="." in name) if known not in doc.entries("Args")]
        if missing:
            sys.exit(f"{name}: Args leaves out {', '.join(missing)}")
    yield from _prose(doc)


def _prose(doc: Docstring) -> Iterator[str]:
    """Render a docstring."""
    yield f"{doc.text}\n"
    for title in doc.sections:
        if title == "Returns":
            yield textwrap.fill("Returns: " + " ".join(doc.sections[title].split()), WIDTH) + "\n"
            continue
        yield f"{'Arguments' if title == 'Args' else title}:\n"
        for name, words in doc.entries(title).items():
            yield textwrap.fill(f"- `{name}`: {words}", WIDTH, subsequent_indent="  ")
        yield ""


def _signature(node: ast.FunctionDef, name: str, *, bound: bool) -> str:
    """Return the call with types and defaults, on one line or one parameter a line."""
    words = list(_parameters(node.args, bound=bound))
    returned = _annotation(node.returns)
    result = f" -> {name.partition('.')[0] if returned == 'Self' else returned}"
    line = f"{name}({', '.join(words)}){result}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){result}"])


def _parameters(args: ast.arguments, *, bound: bool) -> Iterator[str]:
    """Write every parameter as the source does."""
    positional = args.args[1:] if bound else args.args
    defaults = [None] * (len(args.args) - len(args.defaults)) + list(args.defaults)
    for argument, default in zip(positional, defaults[len(args.args) - len(positional) :], strict=True):
        yield _parameter(argument, default)
    if args.kwonlyargs:
        yield "*"
    for argument, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield _parameter(argument, default)
    if args.kwarg is not None:
        yield f"**{_parameter(args.kwarg, None)}"


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    written = f"{argument.arg}: {_annotation(argument.annotation)}"
    return written if default is None else f"{written} = {ast.unparse(default)}"


def _annotation(node: ast.expr | None) -> str:
    return "Any" if node is None else ast.unparse(node)


def _names(args: ast.arguments, *, bound: bool) -> list[str]:
    positional = args.args[1:] if bound else args.args
    return [known.arg for known in (*positional, *args.kwonlyargs, *([args.kwarg] if args.kwarg else []))]


def main(argv: list[str] | None = None) -> int:
    """Write the page, or compare it; 1 if it is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the page is stale")
    parser.add_argument("--page", type=Path, default=PAGE, help="instead of docs/api.md")
    options = parser.parse_args(argv)
    wanted = page()
    if not options.check:
        options.page.write_text(wanted, encoding="utf-8")
    elif not options.page.is_file() or options.page.read_text(encoding="utf-8") != wanted:
        print(f"{options.page} is stale: run python scripts/make_api_docs.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
