"""The few lines that a person reads after an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from vlapack.console import emit_table
from vlapack.evaluate.floor import THIS_RUN
from vlapack.evaluate.timing import left_out_floor, timing_sentence
from vlapack.libero.drift import described

VERDICTS = {
    "no_drop_measured": "no drop measured: a loss of 10 points or more is excluded with 95 % confidence",
    "drop": "drop: worse than the baseline, McNemar's p < 0.05",
    "inconclusive": (
        "inconclusive: too few episodes to exclude a loss of 10 points; more `trials` or `noise_seeds` would tell"
    ),
    "baseline_failed": "the baseline hardly ever succeeds: nothing can be said about the policy",
    "errors": "some episodes have no result because the simulator failed",
    "no_baseline": "evaluated alone; `baseline` compares it with its float parent on the same episodes",
}


def print_table(title: str, summaries: Mapping[str, Mapping[str, Any]]) -> None:
    """Print policies that were played on the same episodes, the baseline they share first, to stdout.

    A noise floor has a row if it was played with them; one from elsewhere is in `floor_sentence` only.

    Args:
        title: what was played.
        summaries: row label → the policy's summary (`evaluate.summary.summarize`).
    """
    out = Table(title=title)
    out.add_column("policy")
    for column in ("success", "95 % interval", "against baseline", "MB held", "ms per chunk", "steps"):
        out.add_column(column, justify="right", no_wrap=True)
    first = next(iter(summaries.values()))
    if first["baseline"] is not None:
        out.add_row(
            f"{first['baseline']} (baseline)",
            *_success(first["baseline_success_rate"], first["baseline_ci95"]),
            "",
            *_costs(first, "baseline"),
        )
    if (floor := first["noise_floor"]) is not None and floor["source"] == THIS_RUN:
        low, high = floor["drop_ci95"]
        out.add_row(
            f"noise floor ({floor['kind']})",
            *_success(floor["success_rate"], floor["ci95"]),
            _difference(0.0 - floor["drop"], -high, -low),
            *("",) * 3,
        )
    for label, summary in summaries.items():
        out.add_row(
            label,
            *_success(summary["success_rate"], summary["ci95"]),
            _against(summary["paired"]),
            *_costs(summary, "policy"),
        )
    emit_table(out)


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Say what stands below the table; settings are named as in Python (`console.spelled`)."""
    said = (
        described(summary["drift"]) if "drift" in summary else None,
        timing_sentence(summary),
        sentence(summary),
        sequential_sentence(summary),
        needed_sentence(summary),
        floor_sentence(summary),
    )
    return [text for text in said if text is not None]


def sentence(summary: Mapping[str, Any]) -> str:
    """Say the verdict in words, with the pairs it rests on."""
    text = VERDICTS[summary["verdict"]]
    if (paired := summary["paired"]) is None:
        return text
    return (
        f"{text} (both {paired['both']}, only policy {paired['only_policy']}, only baseline "
        f"{paired['only_baseline']}, neither {paired['neither']}; p = {paired['p_value']:.2g}; drop at most "
        f"{100 * paired['drop_upper95']:.1f} points, one-sided 95 %)"
    )


def needed_sentence(summary: Mapping[str, Any]) -> str | None:
    """Say how many pairs would show a drop, where those that were played do not decide; else None."""
    if summary["verdict"] != "inconclusive":
        return None
    paired = summary["paired"]
    needed = ", ".join(f"{100 * row['drop']:.0f} points {row['episodes']:,}" for row in paired["episodes_needed"])
    return (
        f"pairs needed to detect a drop in 80 % of runs, if {100 * paired['discordance']:.0f} % end differently: "
        f"{needed}"
    )


def sequential_sentence(summary: Mapping[str, Any]) -> str | None:
    """Say what stopped the run, and the interval that holds although it was looked at; None: it was not to stop."""
    if (found := summary.get("sequential")) is None:
        return None
    low, high = found["interval95"]
    what = "the difference" if found["of"] == "difference" else "the success rate"
    stopped = "stopped" if found["reached"] else "not narrow enough: played to the end"
    return (
        f"{stopped} after {found['cases']} of {found['planned_cases']} cases: {what} over all of them is "
        f"{100 * low:+.1f} to {100 * high:+.1f} points, 95 % at any stopping"
    )


def floor_sentence(summary: Mapping[str, Any]) -> str | None:
    """Say how often the float policy disagrees with itself, and where that is from; or that it is not known.

    None: there is no drop that it would stand beside.
    """
    if (floor := summary["noise_floor"]) is None:
        known = left_out_floor(summary) or "not known"
        return None if summary["paired"] is None else f"noise floor: {known}; `noise_floor` plays it"
    low, high = floor["drop_ci95"]
    return (
        f"noise floor ({floor['kind']}; {floor['source']}): the float policy disagrees with itself in "
        f"{floor['discordant']} of {floor['episodes']} episodes; drop {100 * floor['drop']:+.1f} points "
        f"({100 * low:+.0f} to {100 * high:+.0f}), at most {100 * floor['drop_upper95']:.1f}"
    )


def _success(rate: float | None, interval: list[float]) -> tuple[str, str]:
    return ("-" if rate is None else f"{100 * rate:.1f} %"), f"{100 * interval[0]:.0f}-{100 * interval[1]:.0f} %"


def _against(paired: Mapping[str, Any] | None) -> str:
    if paired is None:
        return ""
    return _difference(paired["difference"], *paired["difference_ci95"])


def _difference(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} ({100 * low:+.0f} to {100 * high:+.0f})"


def _costs(summary: Mapping[str, Any], who: str) -> tuple[str, str, str]:
    held, ms, steps = summary["bytes"][who], summary["ms_per_chunk"][who], summary["steps"][who]
    return (
        "-" if held is None else f"{held / 1e6:.2f}",
        "-" if ms is None else f"{ms:.0f}",
        "-" if steps is None else f"{steps:.0f}",
    )
