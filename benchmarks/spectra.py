"""Why GPTQ leaves tiny-libero's language model more than a layer's error promises: the spectra of its inputs.

    python benchmarks/spectra.py                        # one minute

The policy is version 1. Half of the observations that came with it calibrate, the other half tests, one layer at a time
on the float network's inputs. GPTQ wins where inputs are correlated: it moves a weight's error to where they have
little energy. Here one direction, the same for every token, holds nearly all of it. What tells one token from another
is the rest.

The result goes to benchmarks/results/spectra.json and as a table into benchmarks/results/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import torch
import tyro
from common.results import FIRST_OBSERVATIONS, FIRST_POLICY, ROOT, read_rows, write_between, write_result
from torch import Tensor

from vlapack import Recipe, open_checkpoint
from vlapack.checkpoints.pack.contents import layers_of
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code
from vlapack.methods.gptq import gptq_weight, hessian_factor
from vlapack.methods.rotate import hadamard
from vlapack.methods.round import round_weight
from vlapack.methods.transform import Transform
from vlapack.observations.folder import open_source
from vlapack.packing.parent import Parent
from vlapack.packing.streaming import stream
from vlapack.plan.selected import Group, groups
from vlapack.quantize.calibration import LayerInputs
from vlapack.recipe.presets import preset

RESULT = ROOT / "benchmarks" / "results" / "spectra.json"
DOCS = RESULT.with_name("README.md")
BITS = 4


def main(*, result: Path = RESULT) -> int:
    """Measure.

    Args:
        result: The JSON file.
    """
    parent = Parent(open_checkpoint(FIRST_POLICY))
    source = open_source(FIRST_OBSERVATIONS)
    frames = [frame.observation for frame in source.take(len(source))]
    recipe = preset("llm-w4")
    wanted = [group for group in groups(layers_of(parent.config.architecture, recipe), recipe) if group[0].executed]
    seen, unseen = (inputs_of(parent, wanted, frames[half::2]) for half in (0, 1))
    found = [row for group in wanted for row in rows(parent, group, seen[group[0].name], unseen[group[0].name])]
    write_result(result, found)
    write_tables(result)
    return 0


def write_tables(result: Path = RESULT) -> None:
    """Write the result's table into the docs."""
    write_between(DOCS, "spectra", table(read_rows(result)))


def inputs_of(
    parent: Parent, wanted: Sequence[Group], observations: Sequence[Mapping[str, Any]]
) -> dict[str, LayerInputs]:
    """Return what the groups' layers see of some observations."""
    found: dict[str, LayerInputs] = {}
    for _, inputs in stream(parent, wanted, preset("llm-w4"), observations, dtype=torch.float32):
        found |= inputs
    return found


def rows(parent: Parent, group: Group, seen: LayerInputs, unseen: LayerInputs) -> Iterator[dict[str, Any]]:
    """Yield what is to be said of each layer of a group."""
    x = unseen.sample.double()
    varying = x - x.mean(0)
    for layer in group:
        weight = parent.read(f"{layer.name}.weight").double()
        row: dict[str, Any] = {
            "layer": layer.name,
            "K": layer.in_features,
            "effective_rank": effective_rank(x),
            "effective_rank_centred": effective_rank(varying),
        }
        for method, rounded in (("rtn", nearest(weight)), ("gptq", default(weight, seen.sample))):
            error = rounded - weight
            row[method] = float((x @ error.T).norm() / (x @ weight.T).norm())
            row[f"{method}_centred"] = float((varying @ error.T).norm() / (varying @ weight.T).norm())
        yield row


def nearest(weight: Tensor) -> Tensor:
    """Return a weight [N, K] rounded to the nearest of 4 bits, float64."""
    integers, scale = round_weight(weight, BITS, "absmax")
    return integers * scale.double()


def default(weight: Tensor, inputs: Tensor) -> Tensor:
    """Return it rounded as presets do, by GPTQ on `inputs` [T, K] after a Hadamard rotation (and rotated back)."""
    rotate = Transform(rotation=hadamard(Recipe().block))
    factor = hessian_factor(rotate.inputs(inputs.float()))
    integers, scale = gptq_weight(rotate.weight(weight.float()), factor, BITS)
    return rotate.inputs(integers * scale.double())  # a Hadamard matrix is its own inverse


def effective_rank(x: Tensor) -> float:
    """Return (Σλ)² / Σλ² of xᵀx: how many directions would hold the energy if they held it evenly."""
    energies = torch.linalg.svdvals(x).square()
    return float(energies.sum().square() / energies.square().sum())


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| layer | K | rank | rtn, % | GPTQ, % | ratio | centred: rank | rtn, % | GPTQ, % | ratio |",
        "|---" * 10 + "|",
    ]
    for row in found:
        cells = [f"`{row['layer'].rpartition('layers.')[2]}`", str(row["K"])]
        for part in ("", "_centred"):
            rtn, gptq = row[f"rtn{part}"], row[f"gptq{part}"]
            cells += [
                f"{row[f'effective_rank{part}']:.1f}",
                f"{100 * rtn:.1f}",
                f"{100 * gptq:.1f}",
                f"{gptq / rtn:.2f}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
