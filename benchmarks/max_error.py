"""Does the error that `vlapack quantize --max-error` promises hold on observations that it never saw?

    python scripts/record_observations.py --out OBSERVATIONS --count 512 --seed 1
    python benchmarks/max_error.py WORK --data OBSERVATIONS [--bound 0.01] [--runs 10]

Every run draws other observations to tune on from all there are, with another seed of noise and directions, packs, and
compares the pack with its parent on others, as `vlapack compare` does. Asked: a median of at most 1.2 times the
bound in nine of ten runs. WORK keeps finished runs; those of a result that is there are not repeated.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from common import short_tables
from common.results import ROOT, Rows, stamp

from vlapack import open_checkpoint
from vlapack.console import stdout
from vlapack.evaluate.compare import compare
from vlapack.observations.folder import SHIPPED_OBSERVATIONS, open_source
from vlapack.observations.frame import Frame
from vlapack.packing.parent import Parent
from vlapack.policy.policy import Policy
from vlapack.recipe.presets import preset
from vlapack.tune.pack import pack_tuned
from vlapack.tune.results import Tuned
from vlapack.tune.search import ALLOWANCE
from vlapack.tune.target import Target
from vlapack.tune.tuning import Workshop, tune

RESULT = ROOT / "benchmarks" / "results" / "max_error.json"
BASE = "everything"


def main(
    work: tyro.conf.Positional[Path],
    *,
    data: tuple[Path, ...] = (),
    parent: str = "tiny-libero",
    bound: float = 0.01,
    runs: int = 10,
    tuned_on: int = 64,
    unseen: int = 200,
    result: Path = RESULT,
) -> None:
    """Measure.

    Args:
        work: A folder for what is finished.
        data: Folders of observations beside the shipped ones.
        parent: The float policy.
        bound: For the median error.
        runs: How many.
        tuned_on: Observations of each run: half calibrate, half are kept back.
        unseen: How many of the others tell what really happens, at most.
        result: The JSON file.
    """
    frames = [frame for folder in (SHIPPED_OBSERVATIONS, *data) for frame in _all(folder)]
    lines = Rows(result, work / "rows.jsonl")
    for seed in range(runs):
        if any(row["seed"] == seed and row["bound"] == bound for row in lines.read()):
            continue
        row = one_run(parent, frames, work / f"run{seed}", seed=seed, bound=bound, counts=(tuned_on, unseen))
        lines.add(row)
        stdout.print(str(row), markup=False, soft_wrap=True)
    found = sorted(lines.read(), key=lambda row: (row["bound"], row["seed"]))
    held = sum(row["unseen"]["median"] <= ALLOWANCE * row["bound"] for row in found)
    document = {
        "question": "Does the error that --max-error promises hold on observations that it never saw?",
        "parent": parent,
        **stamp(),
        "allowance": ALLOWANCE,
        "runs_within_allowance": held,
        "rows": found,
    }
    result.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    stdout.print(f"{held} of {len(found)} runs: at most {ALLOWANCE} times the bound on observations never seen")
    if result == RESULT:
        short_tables.write_tables()


def one_run(
    policy: str, frames: list[Frame], work: Path, *, seed: int, bound: float, counts: tuple[int, int]
) -> dict[str, Any]:
    """Tune and pack with some frames, and compare on the others."""
    order = np.random.default_rng(seed).permutation(len(frames))
    chosen, unseen = sorted(order[: counts[0]]), sorted(order[counts[0] :][: counts[1]])
    checkpoint = open_checkpoint(policy)
    pack = work / "pack"

    def write(tuned: Tuned, workshop: Workshop) -> None:
        pack_tuned(tuned, workshop, pack, {})

    tuned = tune(
        Parent(checkpoint),
        replace(preset(BASE), seed=seed),
        Target("error", bound),
        [frames[number].observation for number in chosen],
        work / "tuning",
        done=write,
    )
    found = compare(
        lambda: Policy.from_checkpoint(checkpoint),
        lambda: Policy.from_pretrained(pack),
        [frames[number] for number in unseen],
        seed=seed + 1000,
    )
    held = Policy.from_pretrained(pack).held_bytes()
    shutil.rmtree(work)
    measured = tuned.chosen.measured
    assert measured is not None
    return {
        "seed": seed,
        "bound": bound,
        "held_bytes": held,
        "file_bytes": tuned.chosen.nbytes,
        "predicted": tuned.chosen.predicted,
        "kept_back": measured.to_dict(),
        "unseen": {
            "median": found["deviation"]["p50"],
            "p95": found["deviation"]["p95"],
            "frames": found["frames"],
            "gripper_flips": found["gripper"]["flips"],
            "gripper_actions": found["gripper"]["actions"],
        },
        "chunks": dict(tuned.chunks),
        "observations": dict(tuned.observations),
    }


def _all(folder: Path) -> list[Frame]:
    source = open_source(folder)
    return source.take(len(source))


if __name__ == "__main__":
    tyro.cli(main)
