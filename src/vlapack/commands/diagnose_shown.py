"""What `vlapack diagnose` prints to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from vlapack.console import emit_table, emit_text, stdout

if TYPE_CHECKING:
    from vlapack.diagnose.diagnosis import Diagnosis, LayerReport
    from vlapack.diagnose.finding import Finding
    from vlapack.diagnose.steps import StepError
    from vlapack.diagnose.tried import Tried

WORST = 10
MARKS = {"critical": "CRITICAL", "major": "MAJOR", "minor": "minor", "undecided": "UNDECIDED"}


def show(found: Diagnosis, document: Mapping[str, Any]) -> None:
    """Print a diagnosis.

    Args:
        found: what it is.
        document: what `--json` would print.
    """
    from vlapack.diagnose.finding import by_severity

    emit_text(_verdict(found, document["pack"]))
    for finding in by_severity(found.findings):
        _finding(finding)
    if found.layers:
        _layers(sorted(found.layers, key=lambda one: -one.share)[:WORST], len(found.layers))
    if found.steps:
        _steps(found.steps)
    if found.tried:
        _remedies(found.tried, found)
    if found.chosen is not None:
        emit_text(f"the cheapest that helps: {found.chosen.name}; its recipe is in {document['recipe']}")
        stdout.print(f"  {document['command']}", markup=False, soft_wrap=True)  # in one piece, to be pasted
    elif found.verdict == "sound":
        emit_text("nothing to propose")


def _verdict(found: Diagnosis, pack: str) -> str:
    aim = f"the target of {found.target:.2%} ({found.target_from})"
    if found.error is None:
        return f"{pack}: not measured against {aim}, since pack and baseline do not belong together"
    figures = (
        f"a chunk's median error is {found.error.median:.2%}, the 95 % point {found.error.p95:.2%}, on "
        f"{found.error.frames} observations"
    )
    own = "" if found.spread is None else f"; the float policy's own, under another noise, {found.spread.median:.1%}"
    if found.verdict == "sound":
        return f"{pack} is sound: {figures}, below {aim}{own}"
    side = "above" if found.error.median > found.target else "below"
    return f"{pack} is not sound: {figures}, {side} {aim}{own}"


def _finding(one: Finding) -> None:
    emit_text(f"{MARKS[one.severity]}  {one.cause}")
    emit_text(f"    because  {one.evidence}")
    emit_text(f"    remedy   {one.remedy}")


def _layers(worst: Sequence[LayerReport], count: int) -> None:
    table = Table(title=f"the {len(worst)} of {count} layers that add most to the chunk's error")
    for column in ("layer", "bits", "share", "output error", "weights alone", "rounding", "peak before", "after"):
        table.add_column(column, justify="left" if column in ("layer", "bits") else "right", no_wrap=column != "layer")
    clips = any(one.clipped is not None for one in worst)
    if clips:
        table.add_column("clipped", justify="right", no_wrap=True)
    for one in worst:
        cells = [f"{one.share:.1%}", f"{one.error:.2%}", f"{one.weights:.2%}", f"{one.weight_error:.3f}"]
        cells += [f"{one.crest_before:.1f}", f"{one.crest_after:.1f}"]
        table.add_row(one.name, one.bits, *cells, *([_percent(one.clipped)] if clips else []))
    emit_table(table)


def _steps(steps: Sequence[StepError]) -> None:
    table = Table(title="along the flow: what each denoise step adds to the error, and how large it is by then")
    for column in ("step", "time", "by the prefix", "by the expert", "by both", "so far"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in steps:
        numbers = (one.prefix, one.expert, one.both, one.so_far)
        table.add_row(str(one.step), f"{one.time:.1f}", *(f"{number:.3%}" for number in numbers))
    emit_table(table)
    emit_text(_where(steps))


def _where(steps: Sequence[StepError]) -> str:
    """Say in one sentence where the error arises."""
    from vlapack.diagnose.steps import steps_of_most

    worst = sorted(steps_of_most(steps, 0.5, lambda one: one.both))
    prefix, expert = (sum(getattr(one, side) ** 2 for one in steps) for side in ("prefix", "expert"))
    part = prefix / (prefix + expert) if prefix + expert else 0.0
    which = f"step {worst[0]}" if len(worst) == 1 else f"steps {', '.join(map(str, worst))}"
    return (
        f"half of the squares that the steps add come in {which}; {part:.0%} of them by the prefix, {1 - part:.0%} by "
        "the expert"
    )


def _remedies(tried: Sequence[Tried], found: Diagnosis) -> None:
    table = Table(title=f"remedies tried; the target is a median error of {found.target:.2%}")
    for column in ("remedy", "median", "95 %", "MB held", "helps"):
        table.add_column(
            column, justify="left" if column in ("remedy", "helps") else "right", no_wrap=column != "remedy"
        )
    if found.error is not None and found.held is not None:
        table.add_row("the pack as it is", *_numbers(found.error.median, found.error.p95, found.held), "")
    for one in sorted(tried, key=lambda one: (one.held, one.median)):
        mark = "→ " if one is found.chosen else ""
        word = "yes" if one.helps else "not safely" if one.median <= found.target else "no"
        table.add_row(f"{mark}{one.name}", *_numbers(one.median, one.p95, one.held), word)
    emit_table(table)


def _numbers(median: float, p95: float, held: int) -> tuple[str, str, str]:
    return f"{median:.2%}", f"{p95:.2%}", f"{held / 1e6:.2f}"


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.2%}"
