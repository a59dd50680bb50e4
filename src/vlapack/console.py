"""What a command says while it works: everything to stderr, so that stdout carries only the result.

On a terminal `progress` is a bar; elsewhere (CI, a log file) it is one line every ten seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from vlapack.errors import InputError, WorkError

SECONDS_BETWEEN_LINES = 10.0
OFF_TERMINAL = 400
"""Columns that a table may take where no terminal says how many there are: more than any of ours, for none is to be
folded there. rich would fold into 80."""

stderr = Console(stderr=True, highlight=False, soft_wrap=True)
stdout = Console(highlight=False)


def say(message: str) -> None:
    """Write one line of commentary to stderr, without markup."""
    stderr.print(message, markup=False)


def exit_code(command: Callable[[], int]) -> int:
    """Run a command; say what the user did wrong (2) or what failed (1) in one line instead of a traceback."""
    try:
        return command()
    except InputError as error:
        say(f"error: {error}")
        return 2
    except WorkError as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command again continues where this one stopped")
        return 130


def emit_json(document: Any) -> None:
    """Write the one JSON document of a `--json` run to stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def emit_table(table: Table) -> None:
    """Write a table to stdout, and its title above it in a line that is not folded, nor read as markup."""
    if table.title is not None:
        stdout.print(table.title, markup=False, soft_wrap=True)
        table.title = None
    (stdout if stdout.is_terminal else Console(width=OFF_TERMINAL, highlight=False)).print(table)


class Advance(Protocol):
    """Call after each piece of work; `note` is shown beside the bar (a layer's name, a running error)."""

    def __call__(self, note: str = "", steps: int = 1) -> None:
        """Count `steps` more."""


class Show(Protocol):
    """Shows how far a piece of work has come."""

    def __call__(self, part: float, left: float, note: str = "") -> None:
        """Say which `part` of it is done, from 0 to 1, and how many seconds are `left`."""


@contextmanager
def progress(title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show how far `total` steps have come; `done` of them were finished by an earlier run."""
    start = time.monotonic()
    count = done
    with meter(title) as show:

        def advance(note: str = "", steps: int = 1) -> None:
            nonlocal count
            count += steps
            left = (time.monotonic() - start) / max(count - done, 1) * (total - count)
            show(count / total, left, f"{count}/{total} {note}")

        yield advance


@contextmanager
def meter(title: str) -> Iterator[Show]:
    """Begin a piece of work that says itself how far it is: a bar on a terminal, elsewhere lines."""
    start = last = time.monotonic()
    if stderr.is_terminal:
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=stderr) as bar:
            task = bar.add_task(title, total=1.0, left="", note="")

            def draw(part: float, left: float, note: str = "") -> None:
                bar.update(task, completed=part, left=f"{left:.0f} s left", note=note)

            yield draw
        return

    def write(part: float, left: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or part == 1:
            last = now
            say(f"{title}: {part:.0%}, {now - start:.0f} s, {left:.0f} s left {note}".rstrip())

    yield write
