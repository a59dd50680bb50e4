"""`vlapack watch`: how far a run is, what fails, and when it will be done."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vlapack.commands.eval import eval as eval_command
from vlapack.commands.shared_flags import CheckpointFlags, Flat
from vlapack.commands.spelling import line
from vlapack.console import emit_drawn, emit_json, emit_text, say, spelled, stderr
from vlapack.errors import InputError

if TYPE_CHECKING:
    from vlapack.watch.followed import Followed
    from vlapack.watch.loop import Pause, Show
    from vlapack.watch.standing import Standing

PORT = 8700


def watch(
    run: tyro.conf.Positional[Path],
    others: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="[PACK|FLOAT|FILE ...]", help_behavior_hint="")]
    ] = (),
    *,
    once: bool = False,
    wait: bool = False,
    page: bool = False,
    port: int | None = None,
    host: str | None = None,
    json: bool = False,
    flags: Flat[CheckpointFlags] = CheckpointFlags(),  # noqa: B008  (frozen)
) -> int:
    """Watch a run while `vlapack eval` or `sweep` plays it: progress, success, time left, the newest failures.

    On a terminal a table, elsewhere a line every ten seconds. The run may be played by another process or machine,
    in shards, or be killed and started again; nothing is written into its folder. When it is complete, the last table
    is on stdout. Ctrl-C ends watching, not the run.

        vlapack watch outputs/eval/full
        vlapack watch outputs/eval/full --page
        vlapack watch outputs/eval/full packs/full compare.json --page --port 9000
        vlapack watch outputs/eval/full --json

    Args:
        run: The folder that the run is written to; of a sharded one, OUT itself or a single shard.
        others: For --page: packs, their float parent, JSON documents, as `report` takes them.
        once: Print the table as it is now, and stop.
        wait: Wait for a run that has not begun.
        page: Also serve the page of `vlapack report`, which then follows the run.
        port: Port of the page; 0 takes any free one. Default: 8700.
        host: Address of the page. Default: 127.0.0.1, this machine only. With another, anyone who can reach it can see
            the page and the run's videos.
        json: Write the run as it is now to stdout as one JSON document, and stop.
        flags: What the parent's folder does not say.
    """
    if not page and (given := [name for name, value in (("--port", port), ("--host", host)) if value is not None]):
        raise InputError(f"{given[0]} is the page's: add --page")
    if not page and others:
        raise InputError(f"{others[0]} would be shown on the page only: add --page, or leave it out")
    if page and (once or json):
        raise InputError("--page follows the run, and --once and --json stop at once: give one of them")
    port = PORT if port is None else port
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: give 0 to 65535")

    from vlapack.watch.followed import Followed
    from vlapack.watch.loop import wait_for_run
    from vlapack.watch.standing import standing

    try:
        if wait:
            wait_for_run(run)
        found = Followed(run, keep=page)
        if json:
            emit_json(standing(found).to_dict())
            return 0
        if once:
            return _conclude(standing(found))
        if not page:
            return _watch(found)
        with _page(found, others, host or "127.0.0.1", port, flags.checkpoint_options()) as (show, pause):
            return _watch(found, show, pause)
    except KeyboardInterrupt:  # before there was anything to see
        return 0


def _watch(run: Followed, page: Show | None = None, pause: Pause | None = None) -> int:
    """Show a run until it is complete or Ctrl-C; a page stays until Ctrl-C."""
    import time

    from vlapack.watch.loop import in_lines, on_terminal, watch
    from vlapack.watch.standing import standing

    try:
        with ExitStack() as stack:
            stack.enter_context(_terminated_as_interrupted())
            table = stack.enter_context(on_terminal() if stderr.is_terminal else in_lines())

            def show(found: Standing) -> None:
                table(found)
                if page is not None:
                    page(found)

            watch(run, show, stay=page is not None, pause=pause or time.sleep)
    except KeyboardInterrupt:
        pass
    return _conclude(standing(run))


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """End at SIGTERM as at Ctrl-C: the terminal gets its cursor back, and readers are told."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _conclude(found: Standing) -> int:
    from vlapack.watch.screen import screen
    from vlapack.watch.words import verdicts

    emit_drawn(lambda width, height: screen(found, width, height))
    for verdict in verdicts(found):
        emit_text(spelled(verdict))
    return 0


@contextmanager
def _page(
    run: Followed, others: tuple[str, ...], host: str, port: int, options: Mapping[str, Any]
) -> Iterator[tuple[Show, Pause]]:
    """Serve the page of a run; yield what shows the run there, and what waits for its readers."""
    from vlapack.drawing.figure import require_matplotlib
    from vlapack.report.evidence import gather
    from vlapack.report.report import Composer
    from vlapack.serve.access import is_loopback
    from vlapack.watch.board import Board
    from vlapack.watch.live_page import LivePage
    from vlapack.watch.server import serving
    from vlapack.watch.standing import standing

    require_matplotlib()
    evidence = gather(others)
    if evidence.runs:
        raise InputError(f"{evidence.runs[0].folder} is a second run: one is watched at a time")
    words = ["vlapack", "watch", str(run.folder), *others, "--page"]
    composer = Composer(
        evidence,
        command=shlex.join(words),
        options=options,
        shell_line=lambda policy, settings: line(eval_command, [policy], settings),
    )
    board = Board()
    live = LivePage(run, composer, board)
    with serving(board, run.folder, host, port) as address:
        live.show(standing(run))  # an error of the page is said before its address is
        emit_text(address)
        if not is_loopback(host):
            say(f"anyone who can reach {host} can see this page and the run's videos")
        say("Ctrl-C ends the page")

        def pause(seconds: float) -> None:
            board.wake.wait(seconds)
            board.wake.clear()

        yield live.show, pause
