"""Output for terminals and job systems whose encoding is not UTF-8: what it lacks is written in ASCII, never an error.

Windows redirects to cp1252, and batch systems run with latin-1 or ascii. Python's own handlers would raise, or write
`\\u2192` where an arrow was meant. Rich replaces its boxes itself; everything else passes through `ascii_instead`.
"""

from __future__ import annotations

import codecs
import sys
import unicodedata
from io import TextIOWrapper

HANDLER = "vlapack.ascii"
REPLACEABLE = ("strict", "surrogateescape", "backslashreplace")
"""Handlers that raise or write escapes; one that the user chose otherwise (PYTHONIOENCODING=ascii:replace) stays."""

WORDS = {
    **{"→": "->", "←": "<-", "↔": "<->", "⇒": "=>", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "±": "+/-", "×": "x"},
    **{"·": "*", "•": "*", "−": "-", "–": "-", "—": "-", "…": "...", "√": "sqrt", "‖": "||", "∞": "inf", "°": " deg"},
    **{"⌈": "ceil(", "⌉": ")", "∈": "in", "ᵀ": "^T", "⁻": "^-", "µ": "u", "“": '"', "”": '"', "‘": "'", "’": "'"},
    **{"✓": "ok", "✗": "x"},
}
"""Signs that have no ASCII form of their own. Greek letters and boxes are replaced by rule."""


def ascii_instead(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for the characters that an encoding lacks: a handler for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> str:
    if character in WORDS:
        return WORDS[character]
    name = unicodedata.name(character, "")
    if name.startswith("BOX DRAWINGS"):
        return {"HORIZONTAL": "-", "VERTICAL": "|"}.get(name.rpartition(" ")[2] if " AND " not in name else "", "+")
    if name.startswith(("GREEK SMALL LETTER ", "GREEK CAPITAL LETTER ")) and " WITH " not in name:
        letter = name.rpartition(" ")[2]
        return letter.lower() if "SMALL" in name else letter.capitalize()
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    if plain and not unicodedata.category(character).startswith("L"):
        return plain
    # Letters are somebody's names: an escape says which file is meant, a letter without its accent does not.
    return character.encode("ascii", "backslashreplace").decode()


def write_any_text() -> None:
    """Let this process's stdout and stderr take any text, in whatever encoding they have."""
    codecs.register_error(HANDLER, ascii_instead)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors in REPLACEABLE:
            stream.reconfigure(errors=HANDLER)


def is_utf8(encoding: str | None) -> bool:
    """Whether a stream of this encoding (None: it never encodes) carries every character as JSON wants it."""
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
