"""The two exceptions that users meet, the exit code of each, and the remedy that several of them share.

A message names a setting in backticks, as Python writes it: `smooth=0`, `rounding='rtn'`, `calib=DIR` with a plain word
where the user fills something in, or `norm_stats` alone. A command shows the same text with its own flags
(`console.exit_code`), so nothing outside `commands/` knows how they are spelled.
"""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot be used: exit code 2.

    The message says what was wrong, the value, the rule and the remedy.

    Attributes:
        field: the setting at fault, where a caller has to know which one it was
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class WorkError(RuntimeError):
    """The input was good and the work failed (a simulator died, a baseline never succeeds): exit code 1."""


def install(extra: str = "", *, again: bool = False) -> str:
    """Return the shell command that installs vlapack, in the one place that changes when it is on an index.

    Args:
        extra: an optional part, such as `libero`
        again: build and install the version that is already there once more
    """
    if again:
        return "`pip install --force-reinstall --no-deps .` in vlapack's source folder"
    what = f"'.[{extra}]'" if extra else "."
    return f"`pip install {what}` in vlapack's source folder"
