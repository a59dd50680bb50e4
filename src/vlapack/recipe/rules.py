"""How the fields of a recipe are checked: each refusal names the field, the value and the rule."""

from __future__ import annotations

import difflib
import re
from typing import Any

from vlapack.errors import InputError

MOST_WORD = 200
"""Letters of an unknown word for which a known one is looked for: that takes their square."""
MOST_PATTERN = 4096


def nearest(word: str, known: list[str]) -> str:
    """Return `; did you mean 'X'?` for the known word nearest to `word`, or nothing if none is near."""
    close = difflib.get_close_matches(word[:MOST_WORD], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_choice(field: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a `value` that is none of the `choices`, or equal to one and of another type (8.0, True).

    Raises:
        InputError: naming field, value and choices.
    """
    if not any(type(choice) is type(value) and choice == value for choice in choices):
        raise InputError(
            f"{field} = {value!r:.200} is not known; choose from {', '.join(map(repr, choices))}", field=field
        )


def require(good: bool, field: str, value: Any, rule: str) -> None:
    """Refuse a value that is not `good`.

    Raises:
        InputError: naming field, value and rule.
    """
    if not good:
        raise InputError(f"{field} = {value!r:.200}: {rule}", field=field)


def is_int(value: Any) -> bool:
    """Whether a value is a whole number; True is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a number; True is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_pattern(field: str, pattern: str) -> None:
    """Refuse what is no regular expression, or an endless one.

    Raises:
        InputError: naming field and pattern.
    """
    require(isinstance(pattern, str), field, pattern, "it must be a regular expression")
    require(
        len(pattern) <= MOST_PATTERN,
        field,
        f"{pattern:.40}…",
        f"a regular expression of at most {MOST_PATTERN} letters",
    )
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{field} = {pattern!r} is not a regular expression: {error}", field=field) from error
