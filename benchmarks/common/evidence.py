"""Single figures of fidelity and tuning that sentences quote, and the table in tiny-libero's card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean, median

from common.full_size import RESULTS, read
from common.preset_tables import deviation
from scipy.stats import binomtest

SUITE = "libero_spatial"
NOT_TRAINED_FOR = {5: "the bowl on the ramekin", 9: "the bowl on the wooden cabinet"}
"""Tasks that the policy learned less well, so that its configuration does not list them."""


def choice() -> str:
    """Return the success that decided which tasks tiny-libero is said to do, in Markdown."""
    found = {
        int(task.removeprefix(f"{SUITE}_")): each["policy"]
        for task, each in read("tiny_libero-choice.json")["per_task"].items()
    }
    chosen = {task: of for task, of in found.items() if task not in NOT_TRAINED_FOR}
    lines = ["| task | success |", "|---|---|"]
    for successes in sorted({of["successes"] for of in chosen.values()}, reverse=True):
        tasks = [task for task, of in chosen.items() if of["successes"] == successes]
        episodes = chosen[tasks[0]]["episodes"]
        lines.append(f"| {SUITE} {', '.join(map(str, tasks))} | {successes} of {episodes} each |")
    successes, episodes = (sum(of[field] for of in chosen.values()) for field in ("successes", "episodes"))
    low, high = binomtest(successes, episodes).proportion_ci(method="wilson")
    lines.append(
        f"| **the tasks in `config.json`** | **{successes} of {episodes} = {100 * successes / episodes:.1f} % "
        f"({100 * low:.1f}-{100 * high:.1f} %)** |"
    )
    for task, where in NOT_TRAINED_FOR.items():
        lines.append(f"| {task}, {where} | {found[task]['successes']} of {found[task]['episodes']} |")
    return "\n".join(lines)


def single_layers() -> Sequence[Mapping[str, float]]:
    """Return what packing one layer at a time did to the chunks of tiny-libero 1, predicted and measured."""
    rows: Sequence[Mapping[str, float]] = read("tuning.json")["prediction"]["layers"]
    return rows


def spread() -> str:
    """Return the least and the largest error that one layer at 4 bits makes."""
    errors = [100 * row["measured"] for row in single_layers() if row["bits"] == 4]
    return f"{min(errors):.4f} % and {max(errors):.1f} %"


def worst() -> str:
    """Return how far the worst layer moves the chunk, in its prediction."""
    return f"{max(row['measured'] / row['predicted'] for row in single_layers()):.1f} times"


def minilm(name: str, field: str) -> str:
    """Return an allocation's or a mix's bytes or error over those of uniform 4 bits on MiniLM, in percent."""
    rows = [row for row in read("frontier_minilm.json")["rows"] if row["kind"] != "sensitivity"]
    mean, plain = (fmean(row[field] for row in rows if row["name"] == each) for each in (name, "W4"))
    return f"{100 * (mean / plain - (field == 'bytes_held')):.0f} %"


def tiny_over() -> str:
    """Return how much more memory `full` takes than `full-w4` on tiny-libero."""
    played = {row["policy"]: row["bytes"] for row in read("closed_loop_large.json")["rows"]}
    return f"{100 * (played['full'] / played['full-w4'] - 1):.0f} %"


def moved(mix: str, field: str) -> str:
    """Return how far a mix of bits moves the chunks of tiny-libero: the median or the 95 % point."""
    return f"{100 * deviation(field)[mix]:.3g} %"


def times(mix: str, than: str) -> str:
    """Return how many times smaller one mix's 95 % point is than another's."""
    errors = deviation("error")
    return f"{errors[than] / errors[mix]:.1f} ×"


def pictures(what: str) -> str:
    """Return what rendering costs without a GPU, least and most among the suites.

    Args:
        what: `picture`: CPU milliseconds of one; `episode`: CPU seconds that a picture of every step adds to the float
            policy's median episode of the large run, which has one of every fifth step anyway; `steps`: its length.
    """
    with (RESULTS / "closed_loop_large" / "baseline.jsonl").open(encoding="utf-8") as lines:
        steps = median(json.loads(line)[4] for line in lines)
    if what == "steps":
        return f"{steps:.0f}"
    costs = [row["picture_ms"] + row["film_ms"] for row in read("video_cost.json")["rows"]]
    if what == "picture":
        return f"{min(costs):.0f} to {max(costs):.0f} ms"
    more = (steps - steps // 5) / 1e3
    return f"{more * min(costs):.0f} to {more * max(costs):.0f} s"


FIGURES = {
    **{f"video: {what}": partial(pictures, what) for what in ("picture", "episode", "steps")},
    "card: choice": choice,
    "one layer": spread,
    "worst layer": worst,
    "full over full-w4, tiny-libero": tiny_over,
    "minilm: allocation, bytes": partial(minilm, "1.1 × W4", "bytes_held"),
    "minilm: allocation, error": partial(minilm, "1.1 × W4", "error"),
    "minilm: k and v, bytes": partial(minilm, "k, v", "bytes_held"),
    "minilm: k and v, error": partial(minilm, "k, v", "error"),
    **{f"median {mix}": partial(moved, mix, "median") for mix in ("W4", "full", "W8")},
    **{f"95 % {mix}": partial(moved, mix, "error") for mix in ("W4", "full", "W8")},
    "8 bits against full": partial(times, "W8", "full"),
    "8 bits against 4": partial(times, "W8", "W4"),
    "full against 4": partial(times, "full", "W4"),
}
"""Marker → what it shows."""
