"""The whole chain on the policy that comes with the package: quantize, act, compare. Run by `make demo`.

tiny-libero is packed with the presets `llm` and `full`; then the float parent and both packs play the same LIBERO
episodes. The parent's episodes are played once and serve both comparisons. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import tyro

from vlapack.commands.quantize import quantize
from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, say, spelled, stdout
from vlapack.errors import InputError
from vlapack.evaluate.contender import contender
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.run import conclude, evaluate
from vlapack.evaluate.summary import FAILED_VERDICTS
from vlapack.evaluate.table import print_table, sentence
from vlapack.evaluate.tasks import listed_tasks
from vlapack.files import write_json
from vlapack.libero.suites import simulator
from vlapack.ops.engine import active

PARENT = "tiny-libero"
PRESETS = ("llm", "full")


def main(out: Path = Path("runs/demo"), episodes: int = 14, workers: int = 2) -> int:
    """Quantize tiny-libero twice and evaluate both packs against it.

    Args:
        out: Folder for packs, videos and results.
        episodes: Paired episodes per pack, at most; spread evenly over the policy's tasks.
        workers: Processes that hold a simulator.
    """
    start = time.monotonic()
    scenes = simulator()
    for preset in PRESETS:
        say(f"== quantizing {PARENT} with preset {preset}")
        quantize(PARENT, preset=preset, out=out / "packs" / preset)
    baseline, metadata = contender("baseline", PARENT)
    folders = {preset: str(out / "packs" / preset) for preset in PRESETS}
    packs = [contender(preset, folder)[0] for preset, folder in folders.items()]
    tasks, init_states = spread(listed_tasks(metadata), episodes)
    contenders = [baseline, *packs]
    plan = Plan(
        tasks=tasks,
        init_states=init_states,
        policies={entry.role: entry.identity for entry in contenders},
        engine=active(),
        simulator=scenes,
    )
    say(f"== {len(plan.cases())} LIBERO episodes for each of {PARENT} and its packs, on the same starts and noise")
    records = evaluate(plan, contenders, out, workers=workers)
    summaries = {
        preset: conclude(plan, records, out, names=(folders[preset], PARENT), role=preset) for preset in PRESETS
    }
    write_json(out / "summary.json", summaries)
    rows = {f"{PARENT} {preset}": summary for preset, summary in summaries.items()}
    print_table(f"{len(plan.cases())} paired episodes on {len(tasks)} LIBERO tasks", rows)
    for label, summary in rows.items():
        stdout.print(f"{label}: {spelled(sentence(summary))}", markup=False, soft_wrap=True)
    stdout.print(
        f"{(time.monotonic() - start) / 60:.1f} minutes; videos, packs and summary.json: {out}/",
        markup=False,
        soft_wrap=True,
    )
    return int(any(summary["verdict"] in FAILED_VERDICTS for summary in summaries.values()))


def spread(listed: Mapping[str, Sequence[int]], episodes: int) -> tuple[tuple[tuple[str, int], ...], tuple[int, ...]]:
    """Choose tasks and init states: all tasks, as often as fits, or of too many tasks every so many-th once.

    Args:
        listed: the policy's tasks, by suite.
        episodes: at most so many are to be played.

    Raises:
        InputError: fewer than one.
    """
    if episodes < 1:
        raise InputError(f"`episodes={episodes}`: at least one must be played")
    tasks = [(suite, task) for suite, ids in listed.items() for task in ids]
    chosen = min(episodes, len(tasks))
    return tuple(tasks[i * len(tasks) // chosen] for i in range(chosen)), tuple(range(episodes // chosen))


if __name__ == "__main__":
    sys.exit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
