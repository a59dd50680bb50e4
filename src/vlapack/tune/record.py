"""What stays of a tuning: the frontier beside the recipe or the pack, and a note in them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlapack.console import say
from vlapack.drawing.figure import can_draw
from vlapack.errors import install
from vlapack.files import write_atomically, write_json
from vlapack.fingerprint import digest_observations
from vlapack.packing.parent import Parent
from vlapack.plan.selected import part_of
from vlapack.recipe.recipe import TUNED, Recipe
from vlapack.tune.allocate import Chosen, label
from vlapack.tune.picture import picture
from vlapack.tune.results import Tuned
from vlapack.tune.target import Target

SHOWN_KINDS = 8


def frontier_paths(out: Path) -> tuple[Path, Path]:
    """Return where the frontier of a recipe file or a pack goes: `NAME.frontier.json` and `NAME.frontier.svg`."""
    name = out.name.removesuffix(".json")
    return out.with_name(f"{name}.frontier.json"), out.with_name(f"{name}.frontier.svg")


def write_frontier(tuned: Tuned, out: Path) -> list[Path]:
    """Write the frontier as JSON and as a picture, beside `out`; older ones are replaced.

    Returns:
        What was written. Without matplotlib there is no picture, which is said.
    """
    table, drawing = frontier_paths(out)
    table.parent.mkdir(parents=True, exist_ok=True)
    write_json(table, tuned.to_dict())
    if not can_draw():
        drawing.unlink(missing_ok=True)  # an older one would show another frontier
        say(f"{drawing.name} is not written: a picture needs matplotlib, {install('report')}")
        return [table]
    write_atomically(drawing, picture(tuned).encode())
    return [table, drawing]


def write_recipe(tuned: Tuned, note: Mapping[str, Any], out: Path) -> None:
    """Write the recipe with its note."""
    document = {**tuned.recipe.to_dict(), TUNED: dict(note)}
    write_atomically(out, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def note_of(tuned: Tuned, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe or a pack says of how it was found, in some twenty lines of JSON.

    `kinds` are the places where the predicted error comes from, the largest first: part and layer, without its number.

    Args:
        tuned: what was found.
        asked: of `request`.
    """
    chosen = tuned.chosen
    assert chosen.measured is not None
    squares: dict[str, float] = defaultdict(float)
    for name, of in tuned.sensitivity.items():
        squares[kind_of(name)] += of.get(chosen.bits[name], 0.0) ** 2
    largest = sorted(squares, key=lambda kind: -squares[kind])[:SHOWN_KINDS]
    return {
        **asked,
        "observations": dict(tuned.observations),
        "held_bytes": chosen.held,
        "file_bytes": chosen.nbytes,
        "predicted": chosen.predicted,
        "median": chosen.measured.median,
        "p95": chosen.measured.p95,
        "kinds": {kind: float(f"{squares[kind] ** 0.5:.3g}") for kind in largest if squares[kind]},
    }


def request(
    parent: Parent,
    base: Recipe,
    target: Target,
    packed: Sequence[Chosen],
    observations: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what was asked of which policy, as JSON: hashes of weights, base recipe and observations, and the rest."""
    return {
        "parent": parent.fingerprint(base, None).weights,
        "base": base.digest(),
        "data": digest_observations(observations),
        "target": {"kind": target.kind, "value": target.value},
        "choices": [label(choice) for choice in packed],
    }


def kind_of(name: str) -> str:
    """Return part and layer of a linear, whatever its number: `llm self_attn.k_proj`."""
    tail = re.sub(r"^.*\.\d+\.", "", name)
    return f"{part_of(name)} {tail.rpartition('.')[2] if tail == name else tail}"
