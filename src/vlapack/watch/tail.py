"""The lines of a file that another process appends to: each once, as soon as it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from vlapack.documents import is_file, open_regular
from vlapack.errors import InputError

PIECE = 2**20
"""Bytes that are read at once; no line of an episode is nearly as long."""


class ReplacedError(Exception):
    """The file is not the one that was read before."""


class Tail:
    """Reads on from where the last look ended.

    A last line without its end is left alone, since its writer is not done. It may also have been killed: the run that
    continues cuts that line off, and what was never taken in need not be taken back. The file stays open, so that
    another one in its place is known as such, whatever its size and number.

    Attributes:
        path: the file; it need not be there yet.
        number: how many lines were read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0
        self._file: BufferedReader | None = None
        self._end = 0

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that are new since the last look, without their ends.

        Raises:
            ReplacedError: the file is gone, shorter, or another one: begin again with a new `Tail`.
            InputError: it cannot be read, or is no file of lines.
        """
        if self._file is None:
            if not is_file(self.path):
                return
            self._file = open_regular(self.path)
        self._require_same(self._file)
        rest, place = b"", self._end
        # Not through the buffer: it may hold a torn end that the writer has replaced since.
        while piece := os.pread(self._file.fileno(), PIECE, place):
            place += len(piece)
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                self._end += len(line) + 1
                self.number += 1
                yield line
            if len(rest) > PIECE:
                raise InputError(f"{self.path} line {self.number + 1} is longer than {PIECE >> 20} MB: no episode's")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _require_same(self, file: BufferedReader) -> None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            raise ReplacedError from None
        if not os.path.samestat(os.fstat(file.fileno()), found) or found.st_size < self._end:
            raise ReplacedError
