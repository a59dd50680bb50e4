"""What a command says while it works: everything to stderr, so that stdout carries only the result.

On a terminal `progress` is a bar and lines wrap at words; elsewhere (CI, a log file) progress is one line every ten
seconds, and no line is broken.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from vlapack.errors import InputError, WorkError
from vlapack.machine.encoding import is_utf8, write_any_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    stderr: Console
    stdout: Console

OFF_TERMINAL = 400
"""Columns that a table may take where no terminal says how many there are: wide enough that nothing wraps. rich would
fold into 80."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
"""What the system says of a disk, whatever the file."""

BROKEN_PIPE = 128 + 13
"""What a shell reports of a program that SIGPIPE ended, as it ends `cat FILE | head`."""

NO_BREAK = "\N{NO-BREAK SPACE}"
UNIT = re.compile(r"(?<=\d) (?=[×%]|[KMG]B\b|(?:m?s|min|h|layers)\b)")

Spelling = Callable[[str], str]
"""Rewrites the settings in a text, which the library names as Python does, for the reader at hand."""
_spelling: ContextVar[Spelling] = ContextVar("spelling", default=str)


def __getattr__(name: str) -> Any:
    """Make `stderr` and `stdout` when they are first asked for.

    The kernels and the network say something at most, and run where there is no rich (`scripts/device_check.sh`).
    """
    if name not in ("stderr", "stdout"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made = _console(stderr=name == "stderr")
    return made


def _console(**options: Any) -> Console:
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            """Leave it to `exit_code`: rich would end the program with 1."""
            raise  # noqa: PLE0704  (rich calls this while it handles the error)

    return Ours(highlight=False, **options)


def spelled(text: str) -> str:
    """Return a text of the library with its settings as the running command spells them; as it is without one."""
    return _spelling.get()(text)


def say(message: str) -> None:
    """Write one line of commentary to stderr, without markup, in the running command's spelling."""
    try:
        console: Console = sys.modules[__name__].stderr
    except ModuleNotFoundError:
        sys.stderr.write(f"{spelled(message)}\n")
    else:
        _print(console, spelled(message))


def emit_text(text: str) -> None:
    """Write lines of the result to stdout, without markup."""
    _print(sys.modules[__name__].stdout, text)


def _print(console: Console, text: str) -> None:
    """Wrap lines at words on a terminal, and nowhere else; a longer word, such as a path, stays in one piece."""
    if console.is_terminal:
        text = "\n".join(wrapped(line, console.width) for line in text.split("\n"))
    console.print(text, markup=False, soft_wrap=True)


def wrapped(line: str, width: int) -> str:
    """Fold one line at words, and indent what follows like its text; a number keeps its unit."""
    indent = " " * (len(line) - len(line.lstrip(" *")))
    glued = UNIT.sub(NO_BREAK, line)
    folded = textwrap.fill(glued, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return folded.replace(NO_BREAK, " ")


def exit_code(command: Callable[[], int], spelling: Spelling = str) -> int:
    """Run a command; say what the user did wrong (2) or what failed (1) in one line instead of a traceback.

    A reader of stdout or stderr that goes away, such as `head`, ends the command without a word (`BROKEN_PIPE`).

    Args:
        command: returns the exit code if nothing goes wrong
        spelling: what the command makes of the settings in errors and in all that is said meanwhile
    """
    write_any_text()
    token = _spelling.set(spelling)
    try:
        try:
            return _outcome(command)
        finally:
            sys.stdout.flush()  # what its reader does not want is then noticed here, and not when Python ends
    except BrokenPipeError:
        if not (closed := [stream for stream in (sys.stdout, sys.stderr) if _reader_is_gone(stream)]):
            raise
        for stream in closed:  # what is still in its buffer goes nowhere, and without another error
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return BROKEN_PIPE
    finally:
        _spelling.reset(token)


def _outcome(command: Callable[[], int]) -> int:
    """Run a command, and turn what users meet into a line and an exit code."""
    try:
        return command()
    except InputError as error:
        say(f"error: {error}")
        return 2
    except WorkError as error:
        say(f"failed: {error}")
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in DISK:  # a mistake of ours, or somebody's own class
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        say(f"failed: {where}{error.strerror}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command continues where this one stopped")
        return 130


def _reader_is_gone(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more, such as one into `head`."""
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def size(nbytes: int) -> str:
    """Say bytes in the largest decimal unit that they fill: `2.98 GB`, `4.65 MB`."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if nbytes >= unit), (1e3, "KB"))
    return f"{nbytes / unit:.2f} {name}"


def emit_json(document: Any, *, indent: int | None = 2) -> None:
    """Write a JSON document to stdout: the one of a run that was asked for `json`, or with `indent=None` a line.

    JSON is UTF-8. Where stdout is not, or a name is no text at all, what is not ASCII is escaped.
    """
    text = json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False)
    if not is_utf8(sys.stdout.encoding) or any("\ud800" <= character <= "\udfff" for character in text):
        text = json.dumps(document, indent=indent, allow_nan=False)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit_table(table: Table) -> None:
    """Write a table to stdout, and its title above it in lines that are not read as markup.

    Where a terminal is too narrow for all columns, they follow in several tables, each with the first column again.
    rich would cut the numbers.
    """
    terminal: Console = sys.modules[__name__].stdout
    if table.title is not None:
        _print(terminal, str(table.title))
        table.title = None
    if not terminal.is_terminal:
        _console(width=OFF_TERMINAL).print(table)
        return
    for places in _fitting(table, terminal):
        terminal.print(table if len(places) == len(table.columns) else _columns_of(table, places))


def emit_drawn(draw: Callable[[int, int], RenderableType]) -> None:
    """Write to stdout what is drawn for so many columns and rows: the terminal's, or as many as are needed."""
    terminal: Console = sys.modules[__name__].stdout
    if terminal.is_terminal:
        terminal.print(draw(terminal.width, terminal.height))
    else:
        _console(width=OFF_TERMINAL).print(draw(OFF_TERMINAL, OFF_TERMINAL))


def _fitting(table: Table, console: Console) -> Iterator[list[int]]:
    """Yield the places of columns that fit beside the first one, which may be folded if it may wrap."""
    unbound = console.options.update(max_width=OFF_TERMINAL)
    first = console.measure(_columns_of(table, [0]), options=unbound).maximum
    if not table.columns[0].no_wrap:
        first = min(first, console.width // 3)
    places = [0]
    for place in range(1, len(table.columns)):
        beside = console.measure(_columns_of(table, [*places[1:], place]), options=unbound).maximum
        if len(places) > 1 and first + beside > console.width:
            yield places
            places = [0]
        places.append(place)
    yield places


def _columns_of(table: Table, places: Sequence[int]) -> Table:
    """Return a table of some columns of another one; the last one brings the caption along."""
    from rich.table import Table

    last = places[-1] == len(table.columns) - 1
    part = Table(caption=table.caption if last else None, caption_justify=table.caption_justify)
    columns = [table.columns[place] for place in places]
    for column in columns:
        part.add_column(column.header, justify=column.justify, no_wrap=column.no_wrap, overflow="fold")
    for row, cells in zip(table.rows, zip(*(column.cells for column in columns), strict=True), strict=True):
        part.add_row(*cells, end_section=row.end_section)
    return part
