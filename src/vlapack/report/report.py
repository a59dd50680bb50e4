"""From what the user named to the file: read everything, measure what is asked, write one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlapack.checkpoints import open_checkpoint
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.files import write_atomically
from vlapack.report import acting_sections as acting
from vlapack.report import pack_sections as packed
from vlapack.report import tuning_sections as tuning
from vlapack.report.episodes import episodes
from vlapack.report.evidence import gather
from vlapack.report.figure import require_matplotlib
from vlapack.report.outliers import Outliers, outliers
from vlapack.report.packs import pack_facts, parent_files
from vlapack.report.page import Headline, Page, render
from vlapack.report.provenance import ShellLine, mismatches, provenance, python_call
from vlapack.report.runs import all_comparisons
from vlapack.report.verdict import answer, without_run
from vlapack.report.videos import Budget

OBSERVATIONS = 2
"""On which outliers are measured: a channel that stands out does so on every one."""


def write_report(inputs: Sequence[str], out: Path, **settings: Any) -> list[Headline]:
    """Write the page.

    Args:
        inputs: as in `compose`, as all other settings.
        out: the file to write; an older one is replaced.

    Returns:
        The answer for every policy.

    Raises:
        InputError: as in `compose`; an older page is left as it is.
    """
    page = compose(inputs, out, **settings)
    write_atomically(out, render(page).encode(errors="backslashreplace"))
    return list(page.headlines)


def compose(
    inputs: Sequence[str],
    out: Path,
    *,
    data: Path | None = None,
    video_bytes: int = 25_000_000,
    command: str = "",
    options: Mapping[str, Any] | None = None,
    shell_line: ShellLine = python_call,
) -> Page:
    """Read everything, and measure what is asked.

    Args:
        inputs: runs, packs, their float parents, and documents of other commands, in any order.
        out: where the page will be; links to videos are relative to its folder.
        data: recorded observations; packs act on two of them, to show their outliers.
        video_bytes: how much of the page may be videos.
        command: what the user typed, for the page.
        options: what a parent's folder does not say (`checkpoints.open_with`).
        shell_line: how the page spells what plays the same episodes.

    Raises:
        InputError: an input is nothing that a report takes, or is damaged; or a library is missing.
    """
    require_matplotlib()
    found = gather(inputs)
    if data is not None and not found.packs:
        raise InputError(
            f"`data={data}` shows the outliers of a pack, and no pack is among the inputs: give its folder"
        )
    for run in found.runs:
        if run.state is not None:
            say(f"{run.folder}: {run.state}")
        if run.torn and not run.under_way:
            say(f"{run.folder}: the last line of its record is not whole; that episode is left out")
    comparisons = list(all_comparisons(found.runs))
    packs = [pack_facts(name) for name in found.packs]
    warnings = list(mismatches(comparisons, packs))
    for warning in warnings:
        say(warning)
    parents = {name: parent_files(name, options or {}) for name in found.parents}
    measured = {} if data is None else {name: _outliers(name, data) for name in found.packs}
    headlines = [Headline(each.name, each.baseline, answer(each)) for each in comparisons]
    return Page(
        headlines=headlines or [Headline(", ".join(found.packs) or "no policy", None, without_run())],
        sections=[
            acting.success(comparisons),
            acting.actions(found.compared),
            packed.memory(comparisons, found.benched, packs, parents, found.inspected),
            acting.times(comparisons, found.benched),
            packed.errors(packs, tuning.sensitivity(found.frontiers)),
            packed.outlier_section(measured),
            packed.bits(packs, found.inspected),
            tuning.better(found.frontiers),
        ],
        episodes=episodes(comparisons, Budget(video_bytes, out)),
        facts=provenance(comparisons, packs, shell_line),
        command=command,
        warnings=warnings,
    )


def _outliers(name: str, data: Path) -> list[Outliers]:
    from vlapack.observations.folder import open_source

    checkpoint = open_checkpoint(name)
    source = open_source(data, checkpoint.config)
    frames = source.take(min(OBSERVATIONS, len(source)))
    return outliers(checkpoint, [frame.observation for frame in frames])
