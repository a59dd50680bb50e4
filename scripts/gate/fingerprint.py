"""Tells whether a kernel's code may have changed: a hash of all that it is made from.

Triton has such a hash, too, but one that changes when a function moves by a line.
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from gate.compiling import constants, options
from gate.targets import Target

_READERS = ("compiling.py", "dialects.py", "listing.py", "machine_code.py")


def source_key(specimen: Any, target: Target) -> str:
    """Return a hash of a specimen's functions, types, constants and options on a card: 16 hexadecimal digits."""
    made_from = [
        sources(specimen.kernel),
        specimen.signature,
        sorted((name, repr(value)) for name, value in constants(specimen, target).items()),
        options(specimen),
        target.arch,
        target.assembled_as,
    ]
    return _hash(json.dumps(made_from))


def cache_key(source: str) -> str:
    """Return the same with Triton's version, and with the code here that reads what Triton makes."""
    import triton

    readers = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in _READERS]
    return _hash(json.dumps([source, triton.__version__, readers]))


def sources(kernel: Any) -> list[str]:
    """Return the text of a function under `@triton.jit`, of all such that it calls, and of its global constants.

    Not where they stand: a function that moves to another line or file is still the same.
    """
    texts: set[str] = set()
    waiting = [kernel]
    while waiting:
        function = waiting.pop()
        if function.src in texts:
            continue
        texts.add(function.src)
        for name, value in _mentioned(function):
            if hasattr(value, "fn") and hasattr(value, "src"):
                if not value.fn.__module__.startswith("triton."):  # its version is in the cache's key
                    waiting.append(value)
            elif isinstance(value, (int, float, str, tuple)) or type(value).__name__ == "constexpr":
                texts.add(f"{name} = {value!r}")
    return sorted(texts)


def _mentioned(function: Any) -> list[tuple[str, Any]]:
    """Return the globals that a function names, by themselves or as a module's attribute."""
    scope = function.fn.__globals__
    found = []
    for node in ast.walk(ast.parse(function.src)):
        if isinstance(node, ast.Name) and node.id in scope:
            found.append((node.id, scope[node.id]))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = scope.get(node.value.id)
            if isinstance(owner, ModuleType) and hasattr(owner, node.attr):
                found.append((node.attr, getattr(owner, node.attr)))
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
