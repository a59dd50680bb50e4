"""The whole chain on the policy that comes with the package: quantize, act, compare. Run by `make demo`.

tiny-libero is packed with `full` and with 8 bits throughout; then the float parent and both packs play the same LIBERO
episodes. A table says what came out, with what thousands of episodes said before and with the error of the actions,
since a dozen episodes tell a loss of half the success from none, and no more. The report shows the episodes side by
side. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from real_size import real_size
from rich.table import Table

from vlapack import Policy
from vlapack.commands.quantize import quantize
from vlapack.commands.report import report
from vlapack.commands.spelling import with_flags
from vlapack.console import emit_table, emit_text, exit_code, say
from vlapack.errors import InputError
from vlapack.evaluate.compare import compare
from vlapack.evaluate.contender import contender
from vlapack.evaluate.plan import Plan
from vlapack.evaluate.run import conclude, evaluate
from vlapack.evaluate.summary import FAILED_VERDICTS
from vlapack.evaluate.tasks import listed_tasks
from vlapack.files import write_json
from vlapack.libero.suites import simulator
from vlapack.observations.folder import SHIPPED_OBSERVATIONS, open_source
from vlapack.ops.engine import active
from vlapack.progress import duration
from vlapack.recipe.presets import PRESETS
from vlapack.recipe.resolve import RecipeFlags

PARENT = "tiny-libero"
PACKS = {"full": RecipeFlags(), "w8a8": RecipeFlags(weight_bits=8)}
"""Packs as the large run calls them, and how they differ from the preset `full`."""
VIDEO_FPS = 4.0
"""What the policies look at anyway: rendering every step without a GPU would take longer than the demo may."""
LARGE_RUN = Path(__file__).parents[1] / "benchmarks" / "results" / "closed_loop_large.json"


def main(out: Path = Path("runs/demo"), episodes: int = 14, workers: int = 2) -> int:
    """Quantize tiny-libero twice and evaluate both packs against it.

    Args:
        out: Folder for packs, videos and results.
        episodes: Paired episodes per pack, at most; spread evenly over the policy's tasks.
        workers: Processes that hold a simulator.
    """
    start = time.monotonic()
    scenes = simulator()
    folders = {name: out / "packs" / name for name in PACKS}
    for name, fields in PACKS.items():
        say(f"== quantizing {PARENT}: {name}")
        quantize(PARENT, preset="full", out=folders[name], fields=fields)
    errors = {name: action_error(folder) for name, folder in folders.items()}
    compared = {out / f"compare-{name}.json": found for name, found in errors.items()}
    for path, found in compared.items():
        write_json(path, found)
    baseline, metadata = contender("baseline", PARENT)
    contenders = [baseline, *(contender(name, str(folder))[0] for name, folder in folders.items())]
    tasks, init_states = spread(listed_tasks(metadata), episodes)
    plan = Plan(
        tasks=tasks,
        init_states=init_states,
        policies={entry.role: entry.identity for entry in contenders},
        engine=active(),
        simulator=scenes,
    )
    say(f"== {len(plan.cases())} LIBERO episodes for each of {PARENT} and its packs, on the same starts and noise")
    records = evaluate(plan, contenders, out, workers=workers, video_fps=VIDEO_FPS)
    summaries = {
        name: conclude(plan, records, out, names=(str(folder), PARENT), role=name) for name, folder in folders.items()
    }
    write_json(out / "summary.json", summaries)
    size = real_size()
    print_table(f"{PARENT} on {len(tasks)} LIBERO tasks, float and packed", summaries, errors)
    emit_text(size)
    evidence = [out, *folders.values(), *compared]
    report(tuple(str(path) for path in evidence), out=out / "report.html", data=SHIPPED_OBSERVATIONS)
    say(f"{duration(time.monotonic() - start)}; packs, videos and summaries: {out}/")
    return int(any(summary["verdict"] in FAILED_VERDICTS for summary in summaries.values()))


def action_error(pack: Path) -> dict[str, Any]:
    """Compare a pack's chunks with its parent's, on the recorded observations that did not calibrate it."""
    source = open_source(SHIPPED_OBSERVATIONS)
    calibrated = {frame.name for frame in source.take(PRESETS["full"].calib_steps)}
    frames = [frame for frame in source.take(len(source)) if frame.name not in calibrated]
    found = compare(lambda: Policy.from_pretrained(PARENT), lambda: Policy.from_pretrained(pack), frames)
    return {"policy": str(pack), "baseline": PARENT, "data": str(SHIPPED_OBSERVATIONS), **found}


def print_table(
    title: str, summaries: Mapping[str, Mapping[str, Any]], errors: Mapping[str, Mapping[str, Any]]
) -> None:
    """Print success here and in the large run, the error of the actions, and the memory."""
    before = {row["policy"]: row for row in json.loads(LARGE_RUN.read_text())["rows"]}
    table = Table(title=title)
    table.add_column("policy")
    for column in ("success here", "in the large run", "action error: median", "95 %", "MB held"):
        table.add_column(column, justify="right")
    first = next(iter(summaries.values()))
    played = first["baseline_success_rate"], first["baseline_ci95"]
    table.add_row("float", _success(*played), _before(before["float"]), "", "", _megabytes(first["bytes"]["baseline"]))
    for name, summary in summaries.items():
        table.add_row(
            name,
            _success(summary["success_rate"], summary["ci95"]),
            _before(before[name]),
            f"{errors[name]['deviation']['p50']:.1%}",
            f"{errors[name]['deviation']['p95']:.1%}",
            _megabytes(summary["bytes"]["policy"]),
        )
    emit_table(table)


def _success(rate: float | None, interval: Sequence[float]) -> str:
    return "-" if rate is None else f"{rate:.0%} ({interval[0]:.0%} to {interval[1]:.0%})"


def _before(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{row['success_rate']:.1%} of {row['episodes']} ({low:.1%} to {high:.1%})"


def _megabytes(held: int | None) -> str:
    return "-" if held is None else f"{held / 1e6:.2f}"


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
