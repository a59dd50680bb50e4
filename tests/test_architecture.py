"""The house stands as DESIGN draws it: imports go down from room to room, never up and never in a circle.

Every law is read from the imports themselves, those inside functions included; a message names the line that breaks it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vlapack

SOURCE = Path(vlapack.__file__).parent
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"

# From the top of the house to its ground: each room may import those below it. Rooms in one row do not know each other.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("commands",),
    ("openpi", "lerobot"),
    ("doctor",),
    ("watch",),
    ("report", "diagnose"),
    ("evaluate", "bench", "tune"),
    ("serve",),
    ("packing",),
    ("observations",),
    ("policy",),
    ("robots",),
    ("checkpoints",),
    ("quantize",),
    ("pi0",),
    ("linear",),
    ("ops",),
    ("plan",),
    ("libero",),
    ("methods",),
    ("recipe",),
    ("drawing",),
    ("fingerprint",),
    ("files",),
    ("documents",),
    ("progress",),
    ("console",),
    ("machine",),
    ("errors",),
)
FLOOR = {room: number for number, row in enumerate(ROOMS) for room in row}
MOST_LOOSE_MODULES = 10

# Rooms that must not know each other although the order would allow it.
FORBIDDEN = {
    "quantize": {"policy", "checkpoints"},
    "policy": {"quantize", "packing"},
    "methods": {
        "recipe",
        "plan",
        "ops",
        "linear",
        "pi0",
        "fingerprint",
        "files",
        "documents",
        "progress",
        "console",
        "machine",
    },
    "libero": {"policy", "methods", "recipe"},
    "plan": {"ops", "linear", "pi0"},
}


@dataclass(frozen=True)
class Import:
    """One import of a module of ours."""

    importer: str
    imported: str
    where: str

    @property
    def rooms(self) -> tuple[str, str]:
        """Who imports, and whom."""
        return room(self.importer), room(self.imported)

    def __str__(self) -> str:
        return f"{self.where}: {self.importer} imports {self.imported}"


def room(module: str) -> str:
    """The first name below `vlapack`; the package itself is the entrance and has none."""
    return module.split(".")[1] if "." in module else ""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(("vlapack", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def imports(module: str, path: Path, known: dict[str, Path]) -> list[Import]:
    """What a module imports of ours, wherever in its text it does."""
    text = path.read_text()
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vlapack":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [name if name in known else str(node.module) for name in names]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names if alias.name.split(".")[0] == "vlapack"]
        else:
            continue
        where = f"{path.relative_to(SOURCE)}:{node.lineno} `{lines[node.lineno - 1].strip()}`"
        found += [Import(module, target, where) for target in dict.fromkeys(targets)]
    return found


KNOWN = modules()
EVERY = [found for module, path in KNOWN.items() for found in imports(module, path, KNOWN)]
# The entrance hands out names of every room, lazily; and everybody may read its `__version__`.
INSIDE = [found for found in EVERY if "vlapack" not in (found.importer, found.imported)]


def test_every_room_is_in_the_plan() -> None:
    unknown = {room(module) for module in KNOWN if room(module)} - FLOOR.keys()
    assert not unknown, f"rooms that the plan does not name: {sorted(unknown)}"


def test_contributing_maps_the_rooms_in_this_order() -> None:
    exist = {room(module) for module in KNOWN}
    rows = [tuple(name for name in row if name in exist) for row in ROOMS]
    text = CONTRIBUTING.read_text(encoding="utf-8").partition("<!-- rooms -->")[2].partition("<!-- /rooms -->")[0]
    heads = [line.partition(":")[0] for line in text.splitlines() if line.startswith("- ")]
    assert [tuple(re.findall(r"`(\w+)`", head)) for head in heads] == [row for row in rows if row]


def test_nothing_imports_a_room_above_its_own() -> None:
    up = [str(found) for found in INSIDE if FLOOR[found.rooms[1]] < FLOOR[found.rooms[0]]]
    assert not up, "\n".join(["imports upward:", *up])


def test_rooms_in_one_row_do_not_know_each_other() -> None:
    across = [
        str(found)
        for found in INSIDE
        if found.rooms[0] != found.rooms[1] and FLOOR[found.rooms[0]] == FLOOR[found.rooms[1]]
    ]
    assert not across, "\n".join(["imports across:", *across])


def test_no_import_goes_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in KNOWN}
    for found in INSIDE:
        if found.imported != found.importer:
            graph[found.importer].add(found.imported)
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = error.args[1]
        steps = set(zip(circle[1:], circle, strict=False))
        lines = [str(found) for found in INSIDE if (found.importer, found.imported) in steps]
        pytest.fail("\n".join(["a circle of imports:", *lines]))


@pytest.mark.parametrize("name", FORBIDDEN)
def test_rooms_keep_what_they_must_not_know_out(name: str) -> None:
    broken = [str(found) for found in INSIDE if found.rooms[0] == name and found.rooms[1] in FORBIDDEN[name]]
    assert not broken, "\n".join([f"{name} must not know {', '.join(sorted(FORBIDDEN[name]))}:", *broken])


def test_few_modules_stand_outside_of_the_rooms() -> None:
    loose = sorted(path.name for path in SOURCE.glob("*.py") if path.name != "__init__.py")
    assert len(loose) <= MOST_LOOSE_MODULES, f"{len(loose)} loose modules: {', '.join(loose)}"
