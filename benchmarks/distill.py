"""Does distilling a uniformly 4-bit pack gain on observations that it was not trained on?

    python benchmarks/distill.py --observations DIR --training DIR DIR [--policy FOLDER] [--work FOLDER]

The pack of `full-w4` is trained to give what its float parent gives: first block by block, then all of it at random
points of the flow. What is trained stays in the pack's format, and every row is measured by the engine on a pack that
was written. At both stages values are kept only where they help observations held out. `--observations` are never
trained on. WORK keeps what is finished: every block, every epoch. The result goes to benchmarks/results/distill.json
and as a table into benchmarks/results/README.md.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import torch
import tyro
from common.calibrations import ALL_LAYERS
from common.comparison import Comparison, frames
from common.descent import Rates
from common.distillation import SAMPLES, Distillation
from common.mixing import PolicyMixes
from common.results import ROOT, origin, write_between, write_result
from common.teacher import seen_by
from common.trained import Student

from vlapack import Policy
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, say, stdout
from vlapack.observations.folder import SHIPPED_OBSERVATIONS
from vlapack.recipe.presets import preset

RESULT = ROOT / "benchmarks" / "results" / "distill.json"
DOCS = RESULT.with_name("README.md")
UNDISTILLED, MIXED = "full-w4", "full"
SPLITS = ("training", "held out", "unseen")
HELD_OUT = 6
"""One in so many training observations is held out. Each is of an episode of its own."""
MEASURED = 4
"""One in so many of the others is compared on: enough to see whether they are memorized."""
OF_BLOCKS = Rates(epochs=3, batch=16, latent=0.01, gain=1e-3, vector=5e-4)
OF_WHOLE = Rates(epochs=8, batch=16, latent=0.004, gain=5e-4, vector=2e-4)


def main(
    observations: Path,
    training: list[Path],
    *,
    policy: str = "tiny-libero",
    calibration: Path = SHIPPED_OBSERVATIONS,
    work: Path = ROOT / "outputs" / "distill",
    block_epochs: int = OF_BLOCKS.epochs,
    epochs: int = OF_WHOLE.epochs,
    every: int = 1,
    seed: int = 0,
    result: Path = RESULT,
) -> int:
    """Distill and measure; the same command goes on where an earlier one ended.

    Args:
        observations: Recorded observations that nothing is trained on.
        training: Folders of those that train, one episode each.
        policy: The float parent.
        calibration: What the packs are calibrated on.
        work: A folder for what is finished.
        block_epochs: How often each block sees the training observations.
        epochs: How often the whole network does.
        every: Take every so many-th of all observations, for a first look.
        seed: Of calibration, split and training.
        result: The JSON file.
    """
    work.mkdir(parents=True, exist_ok=True)
    target = PolicyMixes(Path(policy).name, policy, calibration, observations, every=every)
    teacher = Policy.from_checkpoint(target.checkpoint, savings=ALL_LAYERS)
    known = [frame for folder in training for frame in frames(folder)][::every]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    split = (order[len(known) // HELD_OUT :].sort().values, order[: len(known) // HELD_OUT].sort().values)
    compared = {
        "training": Comparison("training", teacher, [known[number] for number in split[0][::MEASURED]]),
        "held out": Comparison("held out", teacher, [known[number] for number in split[1]]),
        "unseen": target.comparison,
    }
    rows: list[dict[str, Any]] = []
    here = origin()

    def measured(way: str, pack: Policy) -> None:
        for name in SPLITS:
            found = compared[name].differences(pack)
            rows.append(
                {
                    "target": target.name,
                    "way": way,
                    "split": name,
                    "observations": len(compared[name]),
                    "seed": seed,
                    **found,
                    **here,
                }
            )
            say(f"{way}, {name}: {100 * found['median']:.2f} %, {100 * found['error']:.1f} %, {found['flips']} flips")

    measured(MIXED, target.pack(preset(MIXED), seed, work / MIXED))
    undistilled = target.pack(preset(UNDISTILLED), seed, work / UNDISTILLED)
    measured(UNDISTILLED, undistilled)
    seen = seen_by(teacher, known, work, seed=seed)
    student = Student(PackedCheckpoint.open(work / UNDISTILLED))
    distillation = Distillation(student, teacher, seen, split, seed)
    by_blocks, whole = replace(OF_BLOCKS, epochs=block_epochs), replace(OF_WHOLE, epochs=epochs)
    facts: dict[str, Any] = {
        "observations": {"training": len(split[0]), "held_out": len(split[1])},
        "block_by_block": asdict(by_blocks),
        "end_to_end": asdict(whole),
        "points_of_the_flow": SAMPLES,
        "simulation": distillation.simulation(undistilled, known[:32]),
        "stages": [],
    }
    say(f"chunks of the simulation: {facts['simulation']}")
    for way, said in distillation.stages(by_blocks, whole, work / f"state-{seed}-{len(known)}.pt"):
        facts["stages"].append({"way": way, "integers_changed": student.changed(), **said})
        measured(way, Policy.from_pretrained(student.write(work / way.replace(" ", "-"))))
    write_result(result, rows, **facts)
    stdout.print(table(rows), markup=False, soft_wrap=True)
    if result == RESULT:
        write_tables()
    return 0


def write_tables() -> None:
    """Write what the result says into the docs."""
    document = json.loads(RESULT.read_text(encoding="utf-8"))
    write_between(DOCS, "distill", f"{in_words(document)}\n\n{table(document['rows'])}")


def in_words(document: Mapping[str, Any]) -> str:
    """Return how the packs of the table came about."""
    rows, known = document["rows"], document["observations"]
    counts, seeds = {row["split"]: row["observations"] for row in rows}, len({row["seed"] for row in rows})
    sentences = [
        f"Each observation is of an episode of its own: {known['training']} to train on, {known['held_out']} held out "
        f"to choose by, and {counts['unseen']} unseen. Seeds: {seeds}."
    ]
    for stage in document["stages"]:
        first, least = stage["velocity_loss"][0], min(stage["velocity_loss"])
        sentences.append(
            f"*{stage['way'].capitalize()}* took {stage['seconds'] / 60:.0f} minutes on one busy core. By then "
            f"{100 * stage['integers_changed']:.1f} % of the pack's integers had changed, and the velocity's loss on "
            f"what was held out went from {first:.4f} to {least:.4f}."
        )
    sentences.append(
        f"Cells: median and 95 % point of the deviation, flips of the gripper. *Training* is measured on one in "
        f"{MEASURED} of those observations."
    )
    return textwrap.fill(" ".join(sentences), 120)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return packs against observations in Markdown: median and 95 % point of the deviation, and flips."""
    lines = [f"| pack | {' | '.join(SPLITS)} |", "|---" * (len(SPLITS) + 1) + "|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = {
            row["split"]: f"{100 * row['median']:.2f} %, {100 * row['error']:.1f} %, {row['flips']} of {row['actions']}"
            for row in rows
            if row["way"] == way
        }
        lines.append(f"| {way} | {' | '.join(cells[split] for split in SPLITS)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
