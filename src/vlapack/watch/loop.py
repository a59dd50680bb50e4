"""Looking at a run again and again, and showing it: as a table on a terminal, elsewhere in a line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vlapack.console import say, stderr
from vlapack.progress import SECONDS_BETWEEN_LINES
from vlapack.watch import words
from vlapack.watch.followed import Followed, run_folders
from vlapack.watch.screen import screen
from vlapack.watch.standing import Standing, standing

SECONDS_BETWEEN_LOOKS = 1.0
REST = 20.0
"""So many times what a look took is rested after it: watching takes a twentieth of a core at most."""

SECONDS_BETWEEN_EQUAL_LINES = 60.0
"""In a log, while nothing happens."""

SECONDS_FOR_A_VERDICT = 60.0
"""So long after the last episode, the evaluation's summary is waited for."""

Show = Callable[[Standing], None]
Pause = Callable[[float], object]


def wait_for_run(folder: Path, pause: Pause = time.sleep) -> None:
    """Wait until there is a run."""
    if not run_folders(folder):
        say(f"waiting for a run in {folder}")
    while not run_folders(folder):
        pause(SECONDS_BETWEEN_LOOKS)


def watch(run: Followed, show: Show, *, stay: bool = False, pause: Pause = time.sleep) -> Standing:
    """Show a run whenever it may have changed; return when it is complete.

    Args:
        run: it is looked at about once a second.
        show: called after each look.
        stay: go on when it is complete, for those who still look at it.
        pause: waits for so many seconds at most.

    Raises:
        InputError, WorkError: as in `Followed.look`.
    """
    while True:
        begun = time.monotonic()
        run.look()
        took = time.monotonic() - begun  # a page has its own rest
        show(found := standing(run))
        if not stay and is_over(found):
            return found
        pause(max(REST * took, SECONDS_BETWEEN_LOOKS))


def is_over(found: Standing) -> bool:
    """Whether a run is complete, and was concluded if anybody is about to conclude it."""
    if found.state != "complete":
        return False
    settled = found.quiet is None or found.quiet > SECONDS_FOR_A_VERDICT
    return bool(found.verdicts) or found.shards is not None or settled


@contextmanager
def on_terminal() -> Iterator[Show]:
    """Show a table that stays in its place, and disappears in the end."""
    from rich.live import Live

    with Live(console=stderr, auto_refresh=False, transient=True) as live:
        yield lambda found: live.update(screen(found, stderr.width, stderr.height), refresh=True)


@contextmanager
def in_lines() -> Iterator[Show]:
    """Write a line at once, then at most every ten seconds, and less often while nothing happens."""
    last: tuple[object, ...] = ()
    at = -math.inf

    def show(found: Standing) -> None:
        nonlocal last, at
        now = time.monotonic()
        seen = (found.played, found.state, found.stalled)
        if now - at >= (SECONDS_BETWEEN_EQUAL_LINES if seen == last else SECONDS_BETWEEN_LINES):
            for line in () if last else words.conditions(found):
                say(f"{found.folder}: {line}")
            last, at = seen, now
            say(words.line(found))

    yield show
