"""From what the user named to the file: read everything, measure what is asked, write one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlapack.checkpoints import open_checkpoint
from vlapack.console import say
from vlapack.drawing.figure import require_matplotlib
from vlapack.errors import InputError
from vlapack.files import write_atomically
from vlapack.report import acting_sections as acting
from vlapack.report import diagnosis_sections as diagnosis
from vlapack.report import pack_sections as packed
from vlapack.report import tuning_sections as tuning
from vlapack.report.episodes import Episodes, episodes
from vlapack.report.evidence import Evidence, gather
from vlapack.report.outliers import Outliers, outliers
from vlapack.report.packs import pack_facts, parent_files
from vlapack.report.page import Headline, Page, render
from vlapack.report.provenance import ShellLine, mismatches, provenance, python_call
from vlapack.report.runs import Comparison, Run, all_comparisons
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
    for run in found.runs:
        if run.state is not None:
            say(f"{run.folder}: {run.state}")
        if run.torn and not run.under_way:
            say(f"{run.folder}: the last line of its record is incomplete; that episode is ignored")
    page = Composer(found, data=data, command=command, options=options, shell_line=shell_line).page(
        found.runs, lambda comparisons: episodes(comparisons, Budget(video_bytes, out))
    )
    for warning in page.warnings:
        say(warning)
    return page


class Composer:
    """Composes a page, also again and again while its runs are played: what does not follow from them is made once.

    Args:
        found: what was given; its runs do not matter.
        data, command, options, shell_line: as in `compose`.

    Raises:
        InputError: as in `compose`.
    """

    def __init__(
        self,
        found: Evidence,
        *,
        data: Path | None = None,
        command: str = "",
        options: Mapping[str, Any] | None = None,
        shell_line: ShellLine = python_call,
    ) -> None:
        if data is not None and not found.packs:
            raise InputError(
                f"`data={data}` shows the outliers of a pack, and no pack is among the inputs: give its folder"
            )
        self._found, self._command, self._shell_line = found, command, shell_line
        self._packs = [pack_facts(name) for name in found.packs]
        self._parents = {name: parent_files(name, options or {}) for name in found.parents}
        measured = {} if data is None else {name: _outliers(name, data) for name in found.packs}
        self._actions = acting.actions(found.compared)
        self._of_packs = [
            packed.errors(self._packs, tuning.sensitivity(found.frontiers)),
            packed.outlier_section(measured),
            packed.bits(self._packs, found.inspected),
            diagnosis.causes(found.diagnosed),
            tuning.better(found.frontiers, found.diagnosed),
        ]

    def page(self, runs: Sequence[Run], choose: Callable[[Sequence[Comparison]], Episodes]) -> Page:
        """Compose the page of these runs.

        Args:
            runs: as they are now.
            choose: which of their episodes are shown.
        """
        found = self._found
        comparisons = list(all_comparisons(runs))
        headlines = [Headline(each.name, each.baseline, answer(each)) for each in comparisons]
        return Page(
            headlines=headlines or [Headline(", ".join(found.packs) or "no policy", None, without_run())],
            sections=[
                acting.success(comparisons),
                self._actions,
                packed.memory(comparisons, found.benched, self._packs, self._parents, found.inspected),
                acting.times(comparisons, found.benched),
                *self._of_packs,
            ],
            episodes=choose(comparisons),
            facts=provenance(comparisons, self._packs, self._shell_line),
            command=self._command,
            warnings=list(mismatches(comparisons, self._packs)),
        )


def _outliers(name: str, data: Path) -> list[Outliers]:
    from vlapack.observations.folder import open_source

    checkpoint = open_checkpoint(name)
    source = open_source(data, checkpoint.config)
    frames = source.take(min(OBSERVATIONS, len(source)))
    return outliers(checkpoint, [frame.observation for frame in frames])
