"""The table of a run on a terminal, and what failed below it, in as many rows as the terminal has."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from vlapack.console import wrapped
from vlapack.progress import shortened
from vlapack.watch import words
from vlapack.watch.standing import Standing

SHORTEST_NAME = 10
BETWEEN = 2
"""Columns between two of the table."""
AGAINST, PACE = words.HEAD[3:5]
FIRST_TO_GO = (PACE, AGAINST)
"""Columns that a narrow terminal does without."""
MOST_SHOWN = 10
"""Failures."""
LOST = "lost  "


def screen(found: Standing, width: int, height: int) -> RenderableType:
    """Return a run as a terminal of this size shows it.

    Paths of videos are never cut: they are there to be copied.
    """
    rows = [words.row(player) for player in found.players]
    parts: list[RenderableType] = [_headline(found, width), Text(), _table(rows, width)]
    conditions = words.conditions(found)
    parts += [part for line in conditions for part in (Text(), Text(wrapped(line, width)))]
    if (errors := words.errors(found)) is not None:
        parts += [Text(), Text(errors, style="yellow")]
    room = max(height - len(rows) - 9 - 2 * len(conditions), 2) // 2
    shown = found.failures[: min(room, MOST_SHOWN)]
    if shown:
        compared = " (lost: the baseline succeeds there)" if any(player.against for player in found.players) else ""
        parts += [Text(), Text(f"Failures, the newest first{compared}", style="bold")]
    for failure in shown:
        who, which = words.failure(failure)
        lost = LOST if failure.lost else " " * len(LOST)
        who = shortened(who, max(width - len(lost) - len(which) - 2, SHORTEST_NAME))
        parts.append(Text.assemble((lost, "red"), f"{who}: {which}"))
        if failure.video is not None:
            parts.append(Text(f"{' ' * len(LOST)}{failure.video}", style="dim", overflow="fold"))
    return Group(*parts)


def _headline(found: Standing, width: int) -> Text:
    style = {"complete": "green", "stopped": "yellow", "under way": "yellow" if found.stalled else ""}[found.state]
    text = Text(wrapped(f"{found.folder}: {words.state(found)}", width), style)
    text.stylize("bold", 0, len(str(found.folder)) + 1)
    return text


def _table(rows: list[tuple[str, ...]], width: int) -> Table:
    """Return the table; a name that is too long loses its beginning, and no number is cut."""
    columns = {head: [head, *cells] for head, cells in zip(words.HEAD, zip(*rows, strict=True), strict=True)}
    if not any(columns[AGAINST][1:]):  # nobody is compared with anybody
        del columns[AGAINST]
    name, *others = columns
    for head in (None, *FIRST_TO_GO):
        others = [other for other in others if other != head]
        names = width - sum(max(map(len, columns[other])) + BETWEEN for other in others)
        if names >= SHORTEST_NAME:
            break
    table = Table(box=None, pad_edge=False, padding=(0, BETWEEN, 0, 0), header_style="bold")
    for head in (name, *others):
        table.add_column(head, justify="left" if head == name else "right", no_wrap=True)
    for number, cell in enumerate(columns[name][1:], 1):
        table.add_row(shortened(cell, max(names, SHORTEST_NAME)), *(columns[other][number] for other in others))
    return table
