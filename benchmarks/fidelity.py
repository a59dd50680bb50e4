"""Which method keeps a quantized network closest to its float parent?

    python scripts/record_observations.py --seed 1 --count 432 --out data/fidelity --tasks TASKS    # once, 20 minutes
    python benchmarks/fidelity.py [--targets minilm,synthetic] [--only 'W4A4.*gptq']

The target `tiny-libero` is version 1 of that policy, with TASKS
`libero_spatial:0,libero_spatial:7,libero_spatial:8,libero_object:6`.

Every row is one method on one target from one calibration seed, and says on which machine, when, by which commit and
from what it was measured. The result goes to benchmarks/results/fidelity.json and as tables into the README.md beside
it. A row that is there, or was finished before a kill, is measured again only if its recipe, weights or data changed,
or by `--again`, such as after a change of the methods.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import tyro
from common.grid import AT_FOUR_BITS, BITS, GROUPS, METHODS, PRESET, Row, rows
from common.results import ROOT, Rows, origin, read_rows, write_between, write_result
from common.sentences import Sentences
from common.synthetic import Synthetic
from common.tiny_libero import TinyLibero
from scipy.stats import linregress

from vlapack import Recipe
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code
from vlapack.errors import InputError
from vlapack.fingerprint import digest
from vlapack.progress import progress
from vlapack.recipe.needs import needs_activations

RESULT = ROOT / "benchmarks" / "results" / "fidelity.json"
DOCS = RESULT.with_name("README.md")
OBSERVATIONS = ROOT / "data" / "fidelity"
KEPT = ROOT / "outputs" / "fidelity.jsonl"
MEASURES = {
    "tiny-libero": "relative error of the action chunk, %",
    "minilm": "1 − mean cosine of sentence embeddings, %",
    "synthetic": "relative error of the output, %",
}


class Target(Protocol):
    """Something that can be quantized and held against its float parent."""

    name: str
    preset: str | None
    identity: str
    """Digest of weights and data."""

    def measure(self, recipe: Recipe, seed: int) -> dict[str, float]:
        """Return `error`, and what else there is to say of a row."""
        ...


def main(
    *,
    targets: str = ",".join(MEASURES),
    only: str = "",
    again: bool = False,
    observations: Path = OBSERVATIONS,
    kept: Path = KEPT,
) -> int:
    """Measure what is missing.

    Args:
        targets: Comma list of tiny-libero, minilm, synthetic.
        only: A regular expression that a row's name must match, such as 'W4A8 per channel .* seed 0'.
        again: Measure rows that are there too.
        observations: For tiny-libero; recorded as the head of this file says.
        kept: The file of rows that are finished and not in the result yet.
    """
    makers: Mapping[str, Callable[[], Target]] = {
        "tiny-libero": lambda: TinyLibero(observations),
        "minilm": Sentences,
        "synthetic": Synthetic,
    }
    done = Rows(RESULT, kept)
    for name in targets.split(","):
        if name not in makers:
            raise InputError(f"--targets {name!r} is unknown; choose from {', '.join(makers)}")
        measure(makers[name](), re.compile(only), done, again)
    write_result(RESULT, [*by_experiment(done).values()])
    write_tables()
    return 0


def write_tables() -> None:
    """Write the result's tables into the docs."""
    found = read_rows(RESULT)
    for name, measured in MEASURES.items():
        of_target = [row for row in found if row["target"] == name and row["method"] != PRESET]
        write_between(
            DOCS, f"fidelity: {name}", f"{measured}; mean of the seeds ± half their range\n\n{table(of_target)}"
        )
    of_chunks = [row for row in found if row["target"] == "tiny-libero" and row["method"] != PRESET]
    write_between(DOCS, "fidelity: median", f"{table(of_chunks, 'median')}\n\n{growth(of_chunks)}")
    write_between(DOCS, "fidelity: presets", presets_table(found))


def by_experiment(done: Rows) -> dict[Row, dict[str, Any]]:
    """Return the last finished row of every experiment."""
    return {Row.of(found): found for found in done.read()}


def measure(target: Target, only: re.Pattern[str], done: Rows, again: bool = False) -> None:
    """Add every row of a target that is wanted, and not there yet as it would be now, or is wanted again."""
    there = {} if again else by_experiment(done)
    wanted = {}
    for row in rows(target.name, target.preset):
        made_of = digest({"target": target.identity, "recipe": row.recipe.digest()})
        if only.search(str(row)) and there.get(row, {}).get("made_of") != made_of:
            wanted[row] = made_of
    here = origin()
    with progress(target.name, len(wanted)) as advance:
        for row, made_of in wanted.items():
            # What no calibration changes, no seed changes either.
            alike = () if needs_activations(row.recipe) else there.values()
            found = next((other for other in alike if other["made_of"] == made_of), None)
            if found is None:
                found = {**row.to_dict(), **target.measure(row.recipe, row.seed), **here, "made_of": made_of}
            there[row] = {**found, **row.to_dict()}
            done.add(there[row])
            advance(f"{row}: {found['error']:.4g}")


def table(found: Iterable[Mapping[str, Any]], field: str = "error") -> str:
    """Return methods against bits and groups, in Markdown."""
    cells = _cells(found, field)
    columns = [(bits, group) for bits in BITS for group in GROUPS]
    names = [f"{bits}{'' if group is None else f' g{group}'}" for bits, group in columns]
    lines = [f"| method | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for method in ("guide", *METHODS):
        for smooth in (False, True):
            values = [_cell(cells.get((method, smooth, *column), [])) for column in columns]
            if any(values):
                lines.append(f"| {method}{', smoothed' if smooth else ''} | {' | '.join(values)} |")
    return "\n".join(lines)


def growth(found: Sequence[Mapping[str, Any]]) -> str:
    """Return, in a sentence, which power of the median the error grows by from cell to cell."""
    medians, errors = ([fmean(of_seeds) for of_seeds in _cells(found, field).values()] for field in ("median", "error"))
    fit = linregress(np.log(medians), np.log(errors))
    return (
        f"Over these {len(errors)} cells the error grows as the median to the power of {fit.slope:.2f} "
        f"(*r* = {fit.rvalue:.2f} in logarithms)."
    )


def presets_table(found: Iterable[Mapping[str, Any]]) -> str:
    """Return the error of every preset's layers at 4 bits."""
    of_presets = [row for row in found if row["method"] == PRESET]
    lines = ["| preset | error, % |", "|---|---|"]
    for name in AT_FOUR_BITS:
        lines.append(f"| `{name}` | {_cell([row['error'] for row in of_presets if row['preset'] == name])} |")
    return "\n".join(lines)


def _cells(found: Iterable[Mapping[str, Any]], field: str) -> dict[tuple[Any, ...], list[float]]:
    """Return what the seeds of every cell of a table measured: (method, smoothed, bits, group) → values."""
    cells: dict[tuple[Any, ...], list[float]] = {}
    for row in found:
        cells.setdefault((row["method"], row["smooth"] > 0, row["bits"], row["group"]), []).append(row[field])
    return cells


def _cell(errors: list[float]) -> str:
    if not errors:
        return ""
    return f"{100 * fmean(errors):.2f} ± {50 * (max(errors) - min(errors)):.2f}"


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
