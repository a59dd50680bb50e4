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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vlapack.errors import InputError, WorkError

SECONDS_BETWEEN_LINES = 10.0

stderr = Console(stderr=True, highlight=False, soft_wrap=True)
stdout = Console(highlight=False)
_shown: Progress | None = None


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


class Advance(Protocol):
    """Call after each piece of work; `note` is shown beside the bar (a layer's name, a running error)."""

    def __call__(self, note: str = "", steps: int = 1) -> None:
        """Count `steps` more."""


@contextmanager
def progress(title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show how far `total` steps have come; `done` of them were finished by an earlier run."""
    if stderr.is_terminal:
        with _bars() as bar:
            task = bar.add_task(title, total=total, completed=done, note="")

            def advance(note: str = "", steps: int = 1) -> None:
                bar.update(task, advance=steps, note=note)

            yield advance
            if len(bar.tasks) > 1:  # work inside work is gone when it is done
                bar.remove_task(task)
        return

    start = last = time.monotonic()
    count = done

    def report(note: str = "", steps: int = 1) -> None:
        nonlocal count, last
        count += steps
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or count == total:
            last = now
            left = (now - start) / max(count - done, 1) * (total - count)
            say(f"{title}: {count}/{total}, {now - start:.0f} s, {left:.0f} s left {note}".rstrip())

    yield report


@contextmanager
def _bars() -> Iterator[Progress]:
    """Return the bars that are on the screen, or begin: work inside work is one more bar, a screen has one set."""
    global _shown  # noqa: PLW0603 - there is one screen
    if _shown is not None:
        yield _shown
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr) as bars:
        _shown = bars
        try:
            yield bars
        finally:
            _shown = None
