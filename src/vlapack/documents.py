"""How a file that a stranger may have made is read: ordinary files only, and JSON at a bounded cost."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any

from vlapack.errors import InputError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# What any JSON of ours stays far below (a full-size pack's header has 1 MB), and what Python holds for it in 100 MB.
MOST_JSON_BYTES = 8 * 2**20
MOST_JSON_VALUES = 1_000_000
MOST_JSON_DEPTH = 64
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def is_file(path: Path) -> bool:
    """Whether there is such a file; for a name that no file can have (one that is too long) there is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def open_regular(path: Path) -> BufferedReader:
    """Open an ordinary file for reading; a FIFO or a device would keep the reader waiting, or never end.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    try:
        if stat.S_ISREG(path.stat().st_mode):
            file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115 - the caller's
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # a zero byte in the name
        raise InputError(f"{str(path)!r}: cannot be read: {error}") from error
    raise InputError(
        f"{path}: not an ordinary file (a folder, a FIFO, a device or a socket): put the file itself there"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        InputError: the file cannot be read, or `parse_json` refuses what it holds.
    """
    refuse_lfs_pointer(path)
    with open_regular(path) as file:
        return parse_json(file.read(MOST_JSON_BYTES + 1), str(path))


def parse_json(text: bytes, place: str) -> dict[str, Any]:
    """Parse a JSON object at a cost that its size bounds.

    Args:
        text: UTF-8.
        place: names it in messages.

    Raises:
        InputError: no JSON, another value than an object, a key that stands twice in one object (two readers may take
            different ones), half of a surrogate pair, or more bytes, values or levels than any file of ours has.
    """
    if len(text) > MOST_JSON_BYTES:
        raise InputError(f"{place}: more than {MOST_JSON_BYTES >> 20} MB of JSON; files of this kind are far smaller")
    # An upper bound: text may hold these characters too.
    if sum(map(text.count, (b"[", b"{", b",", b":"))) > MOST_JSON_VALUES:
        raise InputError(f"{place}: more than {MOST_JSON_VALUES} values; files of this kind have far fewer")
    too_deep = f"{place}: nested more than {MOST_JSON_DEPTH} levels deep; files of this kind are flat"
    try:
        document = json.loads(text.decode(), object_pairs_hook=_without_repetition)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise InputError(too_deep) from None
    except ValueError as error:
        raise InputError(f"{place}: not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{place}: expected a JSON object, found {type(document).__name__}")
    level: list[Any] = [document]
    for _ in range(MOST_JSON_DEPTH):
        inside = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for values in inside for value in values if isinstance(value, dict | list)]
        if not level:
            return document
    raise InputError(too_deep)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r:.100} appears twice in one object")
    return found


def refuse_lfs_pointer(path: Path) -> None:
    """Refuse the few lines that git leaves in a file's place where git-lfs is not installed.

    Raises:
        InputError: `path` is such a file. One that cannot be read is left to the one who reads it.
    """
    try:
        with open_regular(path) as file:
            start = file.read(len(LFS_POINTER))
    except InputError:
        return
    if start == LFS_POINTER:
        raise InputError(
            f"{path}: a git-lfs pointer, not the file itself; run `git lfs pull` in its repository (`git lfs install` "
            "once before)"
        )
