"""What becomes of every field of a format that other software writes: honored, harmless, or refused by name.

One table per format lists all fields that its writers know. A field in none of the three columns is refused: it may
change actions, and skipping it would do that without a word.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vlapack.errors import InputError

UNSET: tuple[Any, ...] = (None, False, 0, "", [], {})
"""What a field holds whose feature is off."""


@dataclass(frozen=True)
class Only:
    """A field of which some values mean what happens here anyway, and every other one is refused.

    Attributes:
        accepts: whether a value is one of the former.
        rule: what any other value would mean, and what to do.
    """

    accepts: Callable[[Any], bool]
    rule: str


def only(*values: Any, rule: str) -> Only:
    """Accept these values; True is not 1."""
    return Only(lambda given: any(given == value and _is_flag(given) == _is_flag(value) for value in values), rule)


def off(rule: str) -> Only:
    """Accept whatever says that a feature is off."""
    return Only(lambda given: given in UNSET, rule)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


FLAG = Only(lambda value: value is None or _is_flag(value), "it must be true or false")
TEXT = Only(lambda value: value is None or isinstance(value, str), "it must be a text, or null")
NAMES = Only(lambda value: value is None or _is_names(value), "it must be a list of names, or null")
"""Types of fields that are honored, whatever their value: `bool("false")` is true."""


@dataclass(frozen=True)
class Fields:
    """All fields of one format.

    Attributes:
        writers: who writes it, for messages.
        honored: read, and in effect.
        harmless: field → why no action depends on it.
        limited: field → the values that are accepted.
        typed: honored field → the type of its value, where the code that reads the field does not check it.
    """

    writers: str
    honored: Collection[str] = ()
    harmless: Mapping[str, str] | None = None
    limited: Mapping[str, Only] | None = None
    typed: Mapping[str, Only] | None = None

    def require(self, place: str, document: Mapping[str, Any]) -> None:
        """Refuse a document with a field that is unknown or has a value that is not accepted.

        Args:
            place: the file, and what in it.
            document: the fields.

        Raises:
            InputError: it names the field, its value, and what to do.
        """
        harmless, limited = self.harmless or {}, {**(self.limited or {}), **(self.typed or {})}
        for name, value in document.items():
            if name in limited:
                if not limited[name].accepts(value):
                    raise InputError(f"{place}: {name} is {value!r}; {limited[name].rule}")
            elif name not in self.honored and name not in harmless:
                near = difflib.get_close_matches(name, [*self.honored, *harmless, *limited], n=1)
                raise InputError(
                    f"{place}: unknown field {name!r}{f' (near {near[0]!r})' if near else ''}, which {self.writers} "
                    "does not write; it may change actions: remove it if it does not, else update vlapack"
                )
