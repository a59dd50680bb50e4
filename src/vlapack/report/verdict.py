"""The first line of a report: may this pack be shipped, why, and what would decide it if nothing does yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vlapack.evaluate.summary import MARGIN
from vlapack.evaluate.timing import left_out_floor, timing_sentence
from vlapack.libero.drift import described
from vlapack.report.runs import Comparison

Tone = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Answer:
    """What the page says first.

    Attributes:
        tone: colors the answer, whose words say it too.
        short: one or two words.
        reason: one sentence.
        details: further sentences: the interval, what would decide, the noise floor.
    """

    tone: Tone
    short: str
    reason: str
    details: tuple[str, ...] = ()


def answer(comparison: Comparison) -> Answer:
    """Answer for one policy of a run."""
    summary, paired = comparison.summary, comparison.paired
    found = summary["verdict"]
    if comparison.baseline is not None and (paired is None or paired.episodes == 0) and found != "errors":
        state = comparison.run.state or "No case was played by both policies."
        return Answer("open", "Not yet", "No episode has been played by both policies.", (state,))
    details = [*_numbers(comparison)]
    if comparison.run.state is not None:
        details.insert(0, comparison.run.state)
    tone: Tone = "open"
    if found == "no_drop_measured":
        tone, short = "good", "Yes"
        reason = f"A loss of {100 * MARGIN:.0f} points of success or more is excluded with 95 % confidence."
        if comparison.run.state is not None:
            tone, short = "open", "Not yet"
            reason = f"So far, {reason[0].lower()}{reason[1:]} But not all planned episodes have been played."
    elif found == "drop":
        tone, short = "bad", "No"
        reason = "The packed policy succeeds less often than its float parent, and chance does not explain it."
    elif found == "inconclusive" and paired is not None:
        short = "Not yet"
        reason = f"Too few episodes to exclude a loss of {100 * MARGIN:.0f} points, or to show one."
        details.append(_more(summary["paired"], paired.episodes))
    elif found == "baseline_failed":
        short, reason = "Cannot say", "The float parent hardly ever succeeds, so nothing can be lost against it."
        details.append(
            "Check its checkpoint, its configuration and norm_stats, and that it was trained on these tasks."
        )
    elif found == "errors":
        short = "Cannot say yet"
        reason = f"In {summary['errors']} episodes the simulator failed, so they have no result."
        details.append("The same `vlapack eval` command plays only those again.")
    else:
        short, reason = "Cannot say", "The policy was evaluated alone, so there is nothing to compare it with."
        details.append("`vlapack eval PACK --baseline FLOAT` plays its float parent on the same episodes.")
    return Answer(tone, short, reason, tuple(details))


def without_run() -> Answer:
    """Answer where no closed-loop run was given."""
    return Answer(
        "open",
        "Cannot say",
        "No closed-loop evaluation is among the inputs.",
        ("`vlapack eval PACK --baseline FLOAT --out RUN` plays one; then give RUN to this command.",),
    )


def _more(paired: Mapping[str, Any], played: int) -> str:
    """Say how many pairs are missing for the largest drop that those played are too few for."""
    missing = [row for row in paired["episodes_needed"] if row["episodes"] > played]
    if not missing:
        return "The true difference is close to that limit, so that more episodes will hardly decide."
    row = max(missing, key=lambda row: row["drop"])
    drop, pairs, share = row["drop"], row["episodes"], max(paired["discordance"], row["drop"])
    return (
        f"About {pairs - played:,} more pairs ({pairs:,} in all, from different starts) tell a drop of "
        f"{100 * drop:.0f} points from none in four of five runs, if {100 * share:.0f} % of them end differently."
    )


def _numbers(comparison: Comparison) -> list[str]:
    summary, paired = comparison.summary, comparison.paired
    lines = []
    if paired is not None and paired.episodes:
        low, high = paired.difference_interval()
        lines.append(
            f"Success {percent(summary['success_rate'])} packed, {percent(summary['baseline_success_rate'])} float: a "
            f"difference of {points(paired.difference)} points (95 % interval {points(low)} to {points(high)}; exact "
            f"McNemar p = {paired.p_value:.2g}; {paired.episodes} pairs)."
        )
        if comparison.run.plan.noise_seeds > 1:
            lines.append(
                "Episodes of one start are not independent. Counted by starts, the drop is at most "
                f"{100 * summary['paired']['drop_upper95']:.1f} points (one-sided 95 %)."
            )
    elif summary["episodes"]:
        low, high = summary["ci95"]
        lines.append(
            f"Success {percent(summary['success_rate'])} (95 % interval {percent(low)} to {percent(high)}; "
            f"{summary['episodes']} episodes)."
        )
    if (stopped := summary.get("sequential")) is not None and stopped["reached"]:
        low, high = stopped["interval95"]
        lines.append(
            f"The run stopped after {stopped['cases']} of {stopped['planned_cases']} cases, since the interval had the "
            f"half width asked for, {100 * stopped['half_width_wanted']:g} points: the "
            f"{stopped['of'].replace('_', ' ')} is within {points(low)} to {points(high)} points, whenever one looks "
            "(95 %)."
        )
    if (drift := summary.get("drift")) is not None:
        lines.append(f"M{described(drift)[1:]}.")
    if (clock := timing_sentence(summary)) is not None:
        lines.append(f"C{clock[1:]}.")
    if (floor := summary["noise_floor"]) is not None:
        lines.append(
            f"For scale: the float policy against itself ({floor['kind']}; {floor['source']}) ends differently in "
            f"{floor['discordant']} of {floor['episodes']} episodes."
        )
    elif (left_out := left_out_floor(summary)) is not None:
        lines.append(f"The noise floor is {left_out}.")
    return lines


def percent(rate: float | None) -> str:
    """Write a fraction as a percentage."""
    return "–" if rate is None else f"{100 * rate:.1f} %"


def points(difference: float) -> str:
    """Write a difference of rates in points of a percentage, with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")
