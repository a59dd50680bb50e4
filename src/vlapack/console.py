"""What a command says while it works: everything to stderr, so that stdout carries only the result.

On a terminal `progress` is a bar; elsewhere (CI, a log file) it is one line every ten seconds.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from vlapack.errors import InputError, WorkError
from vlapack.machine.encoding import is_utf8, write_any_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    stderr: Console
    stdout: Console

OFF_TERMINAL = 400
"""Columns that a table may take where no terminal says how many there are: more than any of ours, for none is to be
folded there. rich would fold into 80."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
"""What the system says of a disk, whatever the file."""

Spelling = Callable[[str], str]
"""Rewrites the settings in a text, which the library names as Python does, for the reader at hand."""
_spelling: ContextVar[Spelling] = ContextVar("spelling", default=str)


def __getattr__(name: str) -> Any:
    """Make `stderr` and `stdout` when they are first asked for.

    The kernels and the network say something at most, and run where there is no rich (`scripts/device_check.sh`).
    """
    if name not in ("stderr", "stdout"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rich.console import Console

    globals()["stderr"] = Console(stderr=True, highlight=False, soft_wrap=True)
    globals()["stdout"] = Console(highlight=False)
    return globals()[name]


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
        console.print(spelled(message), markup=False)


def exit_code(command: Callable[[], int], spelling: Spelling = str) -> int:
    """Run a command; say what the user did wrong (2) or what failed (1) in one line instead of a traceback.

    Args:
        command: returns the exit code if nothing goes wrong
        spelling: what the command makes of the settings in errors and in all that is said meanwhile
    """
    write_any_text()
    token = _spelling.set(spelling)
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
        say("interrupted; the same command again continues where this one stopped")
        return 130
    finally:
        _spelling.reset(token)


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
    """Write a table to stdout, and its title above it in a line that is not folded, nor read as markup."""
    from rich.console import Console

    terminal: Console = sys.modules[__name__].stdout
    if table.title is not None:
        terminal.print(table.title, markup=False, soft_wrap=True)
        table.title = None
    (terminal if terminal.is_terminal else Console(width=OFF_TERMINAL, highlight=False)).print(table)
