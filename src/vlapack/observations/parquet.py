"""Parquet tables, read whole or in part; whatever is wrong with one is an InputError that names its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlapack.documents import is_file
from vlapack.errors import InputError
from vlapack.observations.video import optional

AGAIN = "download the whole data set again"


def column_names(file: Path) -> list[str]:
    """Return the names of a parquet table's columns."""
    with readable(file):
        return [str(name) for name in optional("pyarrow.parquet").read_schema(file).names]


def read_rows(file: Path, columns: Sequence[str] | None = None, filters: Any = None) -> list[dict[str, Any]]:
    """Read a parquet table's rows; InputError naming the file."""
    table = read_table(file, columns, filters)
    with readable(file):
        rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def read_table(file: Path, columns: Sequence[str] | None = None, filters: Any = None) -> Any:
    """Read a parquet table; InputError naming the file, and the columns that it lacks."""
    if columns is not None and (missing := [name for name in columns if name not in column_names(file)]):
        raise InputError(f"{file}: not a parquet table with {', '.join(missing)}; {AGAIN}")
    with readable(file):
        return optional("pyarrow.parquet").read_table(
            file, columns=None if columns is None else list(columns), filters=filters
        )


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn what pyarrow raises over a table into an InputError that names the file."""
    arrow = optional("pyarrow")
    if not is_file(file):
        raise InputError(f"{file}: is not there; download the whole data set")
    try:
        yield
    except InputError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:  # ValueError: names and texts that are not UTF-8
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: not a readable parquet table: {reason}; {AGAIN}") from error
