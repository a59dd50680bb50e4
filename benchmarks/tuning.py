"""Does `vlapack tune` predict what quantizing a layer does, and is its recipe better than simpler ones?

    python benchmarks/tuning.py WORK [--observations 8] [--test 10]

On version 1 of tiny-libero and its observations; those that tune and those that test are of different episodes. Every
layer is packed by itself at 4 and at 8 bits, and the error of the chunk is compared with what the one pass predicted.
Then, for every preset and uniform recipe, `tune` gets the bytes of that recipe's pack as its budget. WORK keeps what is
finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common.results import FIRST_OBSERVATIONS, FIRST_POLICY, ROOT, stamp, write_between
from scipy.stats import pearsonr, spearmanr

from vlapack import open_checkpoint
from vlapack.console import stdout
from vlapack.fingerprint import digest_observations
from vlapack.observations.folder import open_source
from vlapack.packing.parent import Parent
from vlapack.progress import progress
from vlapack.recipe.presets import preset
from vlapack.tune.allocate import Bits
from vlapack.tune.candidates import load_candidates, pack_candidates
from vlapack.tune.comparison import simple_recipes
from vlapack.tune.folder import TuningFolder
from vlapack.tune.results import Candidate
from vlapack.tune.space import PACKED_BITS, Space
from vlapack.tune.target import Target, parted
from vlapack.tune.trial import Trial
from vlapack.tune.tuning import tune

BASE = "everything"
RESULT = ROOT / "benchmarks" / "results" / "tuning.json"
DOCS = ROOT / "docs" / "tune.md"


def main(work: tyro.conf.Positional[Path], *, observations: int = 8, test: int = 10, result: Path = RESULT) -> None:
    """Measure.

    Args:
        work: A folder for what is finished.
        observations: How many are tuned on; `tune` keeps every fourth of them back to choose by.
        test: How many, of other episodes, tell what really happens.
        result: The JSON file.
    """
    parent = Parent(open_checkpoint(FIRST_POLICY))
    base = preset(BASE)
    space = Space.of(parent, base)
    tuning, held_out = split(observations, test)
    simple = {name: bits for name, _, bits in simple_recipes(space)}
    byte_counts = {name: space.file_bytes(space.recipe(bits)) for name, bits in simple.items()}
    tuned = {
        name: tune(parent, base, Target("file", nbytes), tuning, work / "tuning")
        for name, nbytes in byte_counts.items()
    }
    sensitivity = next(iter(tuned.values())).sensitivity
    plan = {**parent.fingerprint(base, held_out).to_dict(), "tuned": digest_observations(tuning)}
    with TuningFolder(work / "test", plan) as kept:
        calibrating = parted(observations, Target("file", 1)).calibrating
        pack_candidates(kept, space, [tuning[number] for number in calibrating])  # as `tune` packed them
        trial = Trial(parent, load_candidates(kept, space), held_out, kept, seed=1)
        one_by_one = prediction(trial, sensitivity, range(test))
        against = [
            rival(trial, name, simple[name], byte_counts[name], tuned[name].chosen, range(test))
            for name in sorted(simple, key=lambda name: byte_counts[name])
        ]
    document = {
        "question": "Does tuning predict what quantizing a layer does, and is its recipe better than simpler ones?",
        "parent": FIRST_POLICY.name,
        "observations": {"tuning": observations, "test": test},
        **stamp(),
        "prediction": one_by_one,
        "rivals": against,
    }
    result.write_text(json.dumps(document, indent=1) + "\n")
    write_tables(result)


def write_tables(result: Path = RESULT) -> None:
    """Write the result's tables into the docs."""
    write_between(DOCS, "tuning", table(json.loads(result.read_text(encoding="utf-8"))))


def table(document: dict[str, Any]) -> str:
    """Return what docs/tune.md says of a result, in Markdown."""
    said = document["observations"]
    lines = [
        "On version 1 of `tiny-libero`, when presets had 4 bits throughout, "
        f"{said['tuning']} observations to tune on and {said['test']} of other episodes "
        "to test on. One layer packed at a time:",
        "",
        "| choice | layers | rank correlation | correlation of logarithms | predicted / measured: 5 %, median, 95 % |",
        "|---|---|---|---|---|",
    ]
    for bits in PACKED_BITS:
        row = document["prediction"][f"W{bits}"]
        ratios = ", ".join(f"{ratio:.2f}" for ratio in row["predicted_over_measured"].values())
        lines.append(
            f"| W{bits}A8 | {row['layers']} | {row['spearman']:.3f} | {row['pearson_of_logarithms']:.3f} | {ratios} |"
        )
    lines += [
        "",
        "All of them at once: relative error of the chunk on the test observations, for each simple recipe and for what"
        " tuning makes of exactly its bytes:",
        "",
        "| recipe | MB | its error | tuned, predicted | tuned, measured |",
        "|---|---|---|---|---|",
    ]
    for row in document["rivals"]:
        lines.append(
            f"| {row['recipe']} | {row['bytes'] / 1e6:.2f} | {row['error']:.4f} | {row['tuned_predicted']:.4f} "
            f"| {row['tuned_error']:.4f} |"
        )
    return "\n".join(lines)


def split(tuning: int, test: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return observations of even and of odd episodes, evenly from each."""
    source = open_source(FIRST_OBSERVATIONS)
    episodes: dict[str, list[dict[str, Any]]] = {}
    for frame in source.take(len(source)):
        episode = {key: value for key, value in frame.source.items() if key != "step"}
        episodes.setdefault(json.dumps(episode, sort_keys=True), []).append(frame.observation)
    halves: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for number, key in enumerate(sorted(episodes)):
        halves[number % 2].extend(episodes[key])
    even, odd = halves
    return (
        [even[number * len(even) // tuning] for number in range(tuning)],
        [odd[number * len(odd) // test] for number in range(test)],
    )


def prediction(trial: Trial, sensitivity: Mapping[str, Mapping[int, float]], numbers: Sequence[int]) -> dict[str, Any]:
    """Pack one layer at a time; correlate its errors with the predicted ones."""
    layers = []
    with progress("one layer at a time", sum(map(len, sensitivity.values()))) as advance:
        for name, of_layer in sensitivity.items():
            for bits, predicted in of_layer.items():
                measured = trial.error({name: bits}, numbers)
                layers.append({"layer": name, "bits": bits, "predicted": predicted, "measured": measured})
                advance(name)
    found: dict[str, Any] = {"layers": layers}
    for bits in PACKED_BITS:
        pairs = np.array([(row["predicted"], row["measured"]) for row in layers if row["bits"] == bits]).T
        found[f"W{bits}"] = {
            "layers": pairs.shape[1],
            "spearman": float(spearmanr(*pairs).statistic),
            "pearson_of_logarithms": float(pearsonr(*np.log(pairs)).statistic),
            "predicted_over_measured": dict(
                zip(("5%", "50%", "95%"), np.quantile(pairs[0] / pairs[1], (0.05, 0.5, 0.95)).tolist(), strict=True)
            ),
        }
        stdout.print(f"W{bits}: {found[f'W{bits}']}", markup=False, soft_wrap=True)
    return found


def rival(  # noqa: PLR0917 - a row's parts
    trial: Trial, name: str, bits: Bits, nbytes: int, chosen: Candidate, numbers: Sequence[int]
) -> dict[str, Any]:
    """Compare a simple recipe with what `tune` made of its bytes, on observations of other episodes."""
    row = {
        "recipe": name,
        "bytes": nbytes,
        "error": trial.error(bits, numbers),
        "chosen": chosen.name,
        "tuned_bytes": chosen.nbytes,
        "tuned_predicted": chosen.predicted,
        "tuned_error": trial.error(chosen.bits, numbers),
    }
    stdout.print(
        f"{name:27s} {nbytes / 1e6:6.2f} MB {row['error']:.4f}   tuned {row['tuned_error']:.4f} ({chosen.name})",
        markup=False,
        soft_wrap=True,
    )
    return row


if __name__ == "__main__":
    tyro.cli(main)
