"""How little error a given size leaves on MiniLM when each layer's bits are measured, not chosen by name.

    python benchmarks/frontier_minilm.py [--seeds N]

For each calibration seed, every linear is raised from 4 bits to each finer choice, alone, with all others at 4 bits.
What that takes off 1 − mean cosine, on sentences that neither calibrate nor test, goes to the allocation of `vlapack
tune`, at a row of byte budgets. Each allocation is measured on the test sentences, beside uniform bits and the mixes
by name of benchmarks/presets.py. Bytes are what the packed linears hold: weights, scales, transforms. Embeddings,
norms and biases stay float in every row and are not counted. benchmarks/common/minilm.py says where the weights come
from. The result goes to benchmarks/results/frontier_minilm.json, a table to the README beside it, a picture to docs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import tyro
from common.mixing import Mix, ModuleMixes, chosen
from common.results import ROOT, Rows, origin, read_rows, write_between, write_result
from common.sentences import SENSITIVITY, Sentences
from presets import OTHER_MIXES, SEEDS
from torch import nn

from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, stdout
from vlapack.fingerprint import digest
from vlapack.progress import progress
from vlapack.recipe.choice import Choice, as_choice
from vlapack.tune.allocate import Option, Problem, finest, label
from vlapack.tune.picture import Dot, plot
from vlapack.tune.results import Kind

RESULT = ROOT / "benchmarks" / "results" / "frontier_minilm.json"
DOCS = RESULT.with_name("README.md")
PICTURE = ROOT / "docs" / "pictures" / "frontier-minilm.svg"
KEPT = ROOT / "outputs" / "frontier_minilm.jsonl"
PLAIN = Choice(4)
CHOICES = (PLAIN, Choice(4, 128), Choice(4, 32), Choice(8))
"""What a layer may become."""
UNIFORM = {f"W{label(choice)}": choice for choice in CHOICES}
NAMED = {name: overrides for name, overrides in OTHER_MIXES.items() if name not in UNIFORM}
BUDGETS = {f"{times} × W4": times for times in (1.025, 1.05, 1.1, 1.15, 1.2, 1.3, 1.45, 1.65)}
"""In bytes of uniform 4 bits; 8 bits are 1.9 times as many."""
Sizes = Mapping[str, Mapping[Choice, int]]
"""Layer → choice → bytes that it holds."""
Gains = Mapping[str, Mapping[Choice, float]]
"""Layer → choice → what raising it alone takes off the error of uniform 4 bits."""


def main(*, seeds: int = len(SEEDS), result: Path = RESULT, kept: Path = KEPT) -> int:
    """Measure what is missing.

    Args:
        seeds: How many calibration seeds.
        result: The JSON file.
        kept: The file of rows that are finished and not in the result yet.
    """
    done = Rows(result, kept)
    sentences = Sentences()
    mixes = ModuleMixes("minilm", sentences.model, sentences.seen, sentences.measured, sentences.identity)
    made_of = digest({"target": mixes.identity, "method": mixes.recipe.digest(), "sensed": SENSITIVITY.read_text()})
    for seed in range(seeds):
        measure(mixes, sentences.sensed, seed, made_of, done)
    rows = [row for row in last(done).values() if row["made_of"] == made_of]
    write_result(result, rows, sentences="of sensitivities, calibration and test: three sets that share none")
    stdout.print(table(rows), markup=False, soft_wrap=True)
    if result == RESULT:
        write_tables()
        write_picture()
    return 0


def measure(mixes: ModuleMixes, sensed: Callable[[nn.Module], float], seed: int, made_of: str, done: Rows) -> None:
    """Add every row of a seed that is not there yet."""
    there = {key for key, row in last(done).items() if row["made_of"] == made_of}
    if {"gains", *UNIFORM, *NAMED, *BUDGETS} <= {name for _, name, of_seed in there if of_seed == seed}:
        return
    here = {**origin(), "made_of": made_of}
    sizes = held(mixes, seed)

    def add(kind: str, name: str, **found: Any) -> None:
        done.add({"kind": kind, "name": name, "seed": seed, **found, **here})

    def measured(kind: Kind, name: str, mix: Mix) -> None:
        if (kind, name, seed) not in there:
            nbytes = sum(sizes[layer][choice] for layer, choice in mix.items())
            layers = {layer: label(choice) for layer, choice in mix.items()} if kind == "allocation" else {}
            add(kind, name, bytes_held=nbytes, **mixes.measure(mix, seed), layers=layers)

    if ("sensitivity", "gains", seed) not in there:
        found = gains(mixes, sensed, seed)
        add("sensitivity", "gains", gains={n: {label(c): gain for c, gain in of.items()} for n, of in found.items()})
    row = last(done)["sensitivity", "gains", seed]
    known = {n: {Choice.from_text(text): gain for text, gain in of.items()} for n, of in row["gains"].items()}
    for name, choice in UNIFORM.items():
        measured("uniform", name, dict.fromkeys(mixes.layers, choice))
    for name, overrides in NAMED.items():
        measured("preset", name, chosen(mixes.layers, overrides))
    for name, times in BUDGETS.items():
        measured("allocation", name, allocated(sizes, known, times))


def held(mixes: ModuleMixes, seed: int) -> Sizes:
    """Return what every layer holds at every choice."""
    found: dict[str, dict[Choice, int]] = {name: {} for name in mixes.layers}
    for choice in CHOICES:
        network = mixes.network(dict.fromkeys(mixes.layers, choice), seed)
        for name, of_layer in found.items():
            of_layer[choice] = sum(buffer.nbytes for buffer in network.get_submodule(name).buffers())
    return found


def gains(mixes: ModuleMixes, sensed: Callable[[nn.Module], float], seed: int) -> Gains:
    """Measure what raising each layer alone from uniform 4 bits takes off the error.

    The others stay at 4 bits, as most of them do under a small budget.
    """
    plain = dict.fromkeys(mixes.layers, PLAIN)
    start = sensed(mixes.network(plain, seed))
    found: dict[str, dict[Choice, float]] = {name: {PLAIN: 0.0} for name in mixes.layers}
    with progress(f"gains, seed {seed}", len(plain) * len(CHOICES[1:])) as advance:
        for name, of_layer in found.items():
            for choice in CHOICES[1:]:
                of_layer[choice] = start - sensed(mixes.network({**plain, name: choice}, seed))
                advance()
    return found


def allocated(sizes: Sizes, found: Gains, times: float) -> Mix:
    """Return the mix with the largest sum of gains in so many times the bytes of uniform 4 bits."""
    options = {
        # An error is what a choice lacks of the layer's largest gain: the same sum but for a constant, and positive.
        name: [Option(choice, nbytes, max(found[name].values()) - found[name][choice]) for choice, nbytes in of.items()]
        for name, of in sizes.items()
    }
    budget = int(times * sum(of[PLAIN] for of in sizes.values()))
    return {name: as_choice(choice) for name, choice in finest(Problem(options), budget).items()}


def last(done: Rows) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the last finished row of every kind, name and seed."""
    return {(row["kind"], row["name"], row["seed"]): row for row in done.read()}


def write_tables() -> None:
    """Write the result's table into the docs."""
    write_between(DOCS, "frontier: minilm", table(read_rows(RESULT)))


def write_picture() -> None:
    """Draw the result."""
    PICTURE.write_text(drawn(read_rows(RESULT)), encoding="utf-8")


def points(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Kind, str, float, list[float]]]:
    """Return kind, name, bytes and the seeds' errors of everything that was measured, the fewest bytes first."""
    found = []
    for kind, name in dict.fromkeys((row["kind"], row["name"]) for row in rows if row["kind"] != "sensitivity"):
        of = [row for row in rows if (row["kind"], row["name"]) == (kind, name)]
        found.append((kind, name, fmean(row["bytes_held"] for row in of), [row["error"] for row in of]))
    return sorted(found, key=lambda point: point[2])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the points in Markdown, bytes and mean errors also against uniform 4 bits."""
    found = points(rows)
    plain_bytes, plain = next((held, fmean(errors)) for kind, name, held, errors in found if name == "W4")
    lines = ["| bits | bytes, × W4 | error | × W4 | of single seeds |", "|---" * 5 + "|"]
    for kind, name, held, errors in found:
        title = f"**allocation in {name}**" if kind == "allocation" else name
        error, spread = fmean(errors), f"{100 * min(errors):.3g} to {100 * max(errors):.3g} %"
        lines.append(f"| {title} | {held / plain_bytes:.3f} | {100 * error:.3g} % | {error / plain:.3f} | {spread} |")
    return "\n".join(lines)


def drawn(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the SVG of the points."""
    found = points(rows)
    dots = [
        Dot(name, kind, round(held), (fmean(of), max(of)), f"{name}: {held / 1e6:.2f} MB, 1 - cosine {fmean(of):.4%}")
        for kind, name, held, of in found
    ]
    return plot(
        dots,
        [(held, fmean(errors)) for kind, _, held, errors in found if kind == "allocation"],
        across="bytes that the packed linears hold",
        upwards="1 - mean cosine of sentence embeddings",
        legend=(
            f"MiniLM, mean of {len({row['seed'] for row in rows})} calibration seeds, the line up to the worst of them",
            "blue: measured allocations; brown: mixes by name; grey: uniform bits",
        ),
    )


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
