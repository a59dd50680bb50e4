"""What 4 bits can still gain: ways of rounding that cost no bytes, and no time either where their note names none.

    python benchmarks/rounding.py --observations DIR [--policy FOLDER] [--language FOLDER] [--targets …] [--only …]

Every row is one way on one target from one calibration seed, at uniform 4 bits with `full`'s transforms; targets and
arguments are those of benchmarks/presets.py. What does not win on all targets is not in the library, and the way stays
here. The result goes to benchmarks/results/rounding.json and as a table into benchmarks/results/README.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro
from common.mixing import ModuleMixes, PolicyMixes, chosen
from common.results import ROOT, Rows, origin, read_rows, write_between, write_result
from common.targets import targets as networks
from common.ways import WAYS, by
from presets import SEEDS

from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, stdout
from vlapack.fingerprint import digest
from vlapack.observations.folder import SHIPPED_OBSERVATIONS
from vlapack.progress import progress

RESULT = ROOT / "benchmarks" / "results" / "rounding.json"
DOCS = RESULT.with_name("README.md")
KEPT = ROOT / "outputs" / "rounding.jsonl"


def main(
    observations: Path,
    *,
    policy: str = "tiny-libero",
    calibration: Path = SHIPPED_OBSERVATIONS,
    language: Path = ROOT / "outputs" / "language",
    targets: str = "policy",
    only: str = "",
    seeds: int = len(SEEDS),
    every: int = 1,
    result: Path = RESULT,
    kept: Path = KEPT,
) -> int:
    """Measure what is missing; the arguments are those of presets.py, and `only` matches a way's name."""
    done = Rows(result, kept)
    for target in networks(
        targets, policy=policy, calibration=calibration, observations=observations, language=language, every=every
    ):
        measure(target, re.compile(only), seeds, done)
    rows = [*last(done).values()]
    write_result(result, rows, ways={name: " ".join(way.note.split()) for name, way in WAYS.items()})
    stdout.print(table(rows), markup=False, soft_wrap=True)
    if result == RESULT:
        write_tables()
    return 0


def write_tables() -> None:
    """Write the result's table into the docs."""
    write_between(DOCS, "rounding", table(read_rows(RESULT)))


def measure(target: PolicyMixes | ModuleMixes, only: re.Pattern[str], seeds: int, done: Rows) -> None:
    """Add every row of a target that is wanted and not there yet."""
    there, recipe = last(done), target.recipe
    wanted = {}
    for seed in range(seeds):
        for name, way in WAYS.items():
            if way.of_policies and not isinstance(target, PolicyMixes):
                continue
            made_of = digest({"target": target.identity, "way": name, "method": recipe.digest()})
            if only.search(name) and there.get((target.name, name, seed), {}).get("made_of") != made_of:
                wanted[name, seed] = made_of
    here = origin()
    with progress(target.name, len(wanted)) as advance:
        for (name, seed), made_of in wanted.items():
            way = WAYS[name]
            target.recipe = recipe if way.steps is None else replace(recipe, calib_steps=way.steps)
            if name.startswith("rtn"):
                target.recipe = replace(recipe, rotation="none", permute=False, rounding="rtn", clip="absmax")
            if way.prepare_for is None:
                target.forget(way.prepare)
            else:
                assert isinstance(target, PolicyMixes)
                target.forget(way.prepare_for(target, seed))
            with by(way):
                found = target.measure(chosen(target.layers, [(".", way.bits)]), seed)
            done.add({"target": target.name, "way": name, "seed": seed, **found, **here, "made_of": made_of})
            advance(f"{name}, seed {seed}: {found['error']:.4g}")
    target.recipe = recipe


def last(done: Rows) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the last finished row of every target, way and seed."""
    return {(row["target"], row["way"], row["seed"]): row for row in done.read()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ways against targets in Markdown: error over that of the default, mean of the seeds; medians behind it."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    lines = [f"| way | {' | '.join(targets)} |", "|---" * (len(targets) + 1) + "|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for target in targets:
            cells.append(", ".join(filter(None, (_ratio(rows, target, way, field) for field in ("error", "median")))))
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(rows: Sequence[Mapping[str, Any]], target: str, way: str, field: str) -> str:
    def mean(name: str) -> float | None:
        found = [row[field] for row in rows if (row["target"], row["way"]) == (target, name) and field in row]
        return fmean(found) if found else None

    one, plain = mean(way), mean("gptq")
    return f"{one / plain:.2f}" if one is not None and plain else ""


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
