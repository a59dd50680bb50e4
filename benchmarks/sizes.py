"""What does each recipe save of π0.5, and what does a running policy then hold in memory?

    python benchmarks/sizes.py

Counted from names and shapes, as `vlapack inspect` counts it, so no machine matters: for every preset, for `full`
at 8 bits, and for the guide's four scripts as they are in examples/libero. The result goes to
benchmarks/results/sizes.json; the pages take their figures from there.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from common.results import ROOT, write_result

from vlapack.commands.inspect import open_network
from vlapack.recipe.presets import PRESETS
from vlapack.recipe.recipe import Recipe
from vlapack.recipe.resolve import RecipeFlags, resolve

RESULT = ROOT / "benchmarks" / "results" / "sizes.json"
NETWORK = "pi05_libero"
SCRIPTS = ROOT / "examples" / "libero"
EXPORTED = re.compile(r'^export (OPENPI_DUQUANT_\w+)="?([^"\n]*)"?$', re.MULTILINE)


def main() -> int:
    """Count, and write the result."""
    rows = counted()
    network = open_network(NETWORK, None)
    sizes = network.by_layer(PRESETS["full"])
    parts = {part: of_part.before for part, of_part in sizes.parts.items()}
    write_result(RESULT, rows, network=NETWORK, bytes=sizes.before, parts=parts)
    return 0


def counted() -> list[dict[str, Any]]:
    """Return a row for every recipe."""
    network = open_network(NETWORK, None)
    rows = []
    for name, recipe in recipes():
        selected, pack = network.select(recipe), network.pack(recipe)
        rows.append(
            {
                "name": name,
                "layers": dict(Counter(layer.part for layer in selected)),
                "at_8_bits": sum(layer.weight_bits == 8 for layer in selected),
                "saved_fraction": network.by_layer(recipe).saved_fraction,
                "file_bytes": pack.file,
                "held_bytes": pack.held,
                "mapped_bytes": pack.mapped,
            }
        )
    return rows


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Yield the presets, `full` at 8 bits, and what the guide's scripts export."""
    yield from PRESETS.items()
    yield "full, 8 bits", replace(PRESETS["full"], weight_bits=8, overrides=())
    for script in sorted(SCRIPTS.glob("run_*.sh")):
        variables = dict(EXPORTED.findall(script.read_text(encoding="utf-8")))
        yield script.name, resolve(None, None, RecipeFlags(), variables).recipe


if __name__ == "__main__":
    sys.exit(main())
